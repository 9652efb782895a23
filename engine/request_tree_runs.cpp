#include <algorithm>
#include <utility>

#include "engine/request_tree.h"

// The runs of given branches: instances of RunPlans.

namespace espalier {

// Null: the children of the owner need none. A generated branch runs its own last row where only generated
// branches continue it; a given one has no rows of its own.
const RunPlan* RequestTree::PlanFor(const Branch& parent, int32_t owner) const {
  const RunPlan* plan = plans_.of_owner[static_cast<size_t>(owner)].get();
  if (plan != nullptr) return plan;
  const bool draws = nodes_[static_cast<size_t>(owner)].generates_below;
  return draws && given(parent) != nullptr ? &DrawOnlyPlan() : nullptr;
}

// Makes the runs of what follows from `owner`, a node or a selection below it, for one branch. Returns the
// group; -1: the children do without.
int32_t RequestTree::OpenGroup(int32_t parent_number, int32_t owner) {
  if (parent_number >= 0 && branch(parent_number).dead) return -1;
  const RunPlan* plan = parent_number < 0 ? plans_.of_owner[0].get() : PlanFor(branch(parent_number), owner);
  if (plan == nullptr) return -1;
  const int32_t index = static_cast<int32_t>(groups_.size());
  RunGroup& group = groups_.emplace_back();
  group.plan = plan;
  group.parent = parent_number;
  group.first_run = kFirstRun + static_cast<int32_t>(runs_.size());
  group.branches.assign(plan->members.size(), -1);
  if (parent_number >= 0) {
    const Branch& parent = branch(parent_number);
    group.base_position = parent.end_position();
    group.source = given(parent) != nullptr ? parent.source : parent_number;
  }
  for (const Run& run : plan->runs) CreateRun(index, run);
  return index;
}

// The first run of a group begins with those tokens of the path that no row has been run for, at least with
// the last one: its logits may be needed again.
void RequestTree::CreateRun(int32_t group_index, const Run& run) {
  const RunGroup& group = groups_[static_cast<size_t>(group_index)];
  Branch& created = runs_.emplace_back();
  created.number = kFirstRun + static_cast<int32_t>(runs_.size()) - 1;
  created.group = group_index;
  created.run = &run;
  created.work = BranchWork::kRead;
  created.start_position = group.base_position + run.begin;
  const std::vector<int32_t>& members = group.plan->members;
  if (!members.empty()) created.node = members[static_cast<size_t>(std::max(run.member, 0))];
  if (run.parent >= 0) {
    created.parent = group.first_run + run.parent;
    created.source = created.parent;
  } else if (group.parent >= 0) {
    Branch& parent = branch(group.parent);
    const Branch& source = branch(group.source);
    if (members.empty()) created.node = parent.node;
    created.parent = group.parent;
    created.source = group.source;
    const int32_t run_before = source.end_position() - (source.run == nullptr ? 1 : 0);
    created.start_position = std::min(run_before, parent.end_position() - 1);
    created.tokens = PathTokens(parent, created.start_position);
    CountTail(&parent, parent.end_position() - run_before);
  }
  created.tokens.insert(created.tokens.end(), run.tokens.begin(), run.tokens.end());
  distinct_tokens_ += static_cast<int64_t>(run.tokens.size());
  if (created.source >= 0) {
    created.claims_source = true;
    ++branch(created.source).continuations;
  }
  new_runs_.push_back(created.number);
}

// The first that continues a branch beyond what was run of it.
void RequestTree::CountTail(Branch* of, int32_t tokens) {
  if (!std::exchange(of->tail_counted, true)) distinct_tokens_ += tokens;
}

// Where the branch's tokens are, or where they are continued.
void RequestTree::JoinGroup(Branch* created, int32_t index) {
  RunGroup& group = groups_[static_cast<size_t>(index)];
  const auto run_of_node = [&](int32_t of) {
    const int32_t run = group.plan->run_of[static_cast<size_t>(plans_.member[static_cast<size_t>(of)])];
    return run >= 0 ? group.first_run + run : group.source;
  };
  if (given(*created) != nullptr) {
    const size_t member = static_cast<size_t>(plans_.member[static_cast<size_t>(created->node)]);
    group.branches[member] = created->number;
    created->group = index;
    created->source = run_of_node(created->node);
  } else if (created->parent == group.parent) {
    created->source = group.first_run;
  } else {
    created->source = run_of_node(branch(created->parent).node);
  }
}

// What holds a given branch's tokens is needed until its selections are resolved.
void RequestTree::ChangeBarriers(Branch* of, int32_t change) {
  of->barriers += change;
  if (given(*of) != nullptr && of->source >= 0) branch(of->source).barriers += change;
}

std::vector<int32_t> RequestTree::TakeAwaiting(Branch* run, const RunUse& use) {
  return std::exchange((use.member < 0 ? *run : branch(UseBranch(*run, use))).awaiting, {});
}

int32_t RequestTree::BranchOfRun(const Branch& run) const {
  const RunGroup& group = groups_[static_cast<size_t>(run.group)];
  return run.run->member < 0 ? group.parent : group.branches[static_cast<size_t>(run.run->member)];
}

int32_t RequestTree::NextUsePosition(const Branch& run) const {
  if (run.uses_issued >= static_cast<int32_t>(run.run->uses.size())) return run.end_position();
  return UsePosition(run, run.run->uses[static_cast<size_t>(run.uses_issued)]);
}

int32_t RequestTree::GivenTokensBefore(const Branch& run, int32_t end) const {
  const int32_t base = groups_[static_cast<size_t>(run.group)].base_position;
  int32_t tokens = 0;
  for (const RunSpan& span : run.run->spans)
    tokens += std::max(std::min(base + span.end, end) - (base + span.begin), 0);
  return tokens;
}

}  // namespace espalier
