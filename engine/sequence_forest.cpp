#include "engine/sequence_forest.h"

#include <algorithm>

#include "engine/request_tree.h"

namespace espalier {

bool SequenceForest::IsGiven(const Sequence& of) const {
  return of.answer != nullptr && tree_->given(*of.answer) != nullptr;
}

// Null: the children of the owner need none. A generated branch runs its own last row where only generated
// branches continue it; a given one has no rows of its own.
const RunPlan* SequenceForest::PlanFor(const Sequence& parent, int32_t owner) const {
  const RunPlan* plan = plans_.of_owner[static_cast<size_t>(owner)].get();
  if (plan != nullptr) return plan;
  return tree_->GeneratesBelow(owner) && IsGiven(parent) ? &SampleOnlyPlan() : nullptr;
}

int32_t SequenceForest::OpenGroup(int32_t parent_number, int32_t owner) {
  if (parent_number >= 0 && at(parent_number).dead()) return -1;
  const RunPlan* plan = parent_number < 0 ? plans_.of_owner[0].get() : PlanFor(at(parent_number), owner);
  if (plan == nullptr) return -1;
  const int32_t index = static_cast<int32_t>(groups_.size());
  RunGroup& group = groups_.emplace_back();
  group.plan = plan;
  group.parent = parent_number;
  group.first_run = kFirstRun + static_cast<int32_t>(runs_.size());
  group.branches.assign(plan->members.size(), -1);
  if (parent_number >= 0) {
    const Sequence& parent = at(parent_number);
    group.base_position = parent.end_position();
    group.source = IsGiven(parent) ? parent.source : parent_number;
  }
  for (const Run& run : plan->runs) CreateRun(index, run);
  return index;
}

// The first run of a group begins with those tokens of the path that no row has been run for, at least with
// the last one: its logits may be needed again.
void SequenceForest::CreateRun(int32_t group_index, const Run& run) {
  const RunGroup& group = groups_[static_cast<size_t>(group_index)];
  Sequence& created = runs_.emplace_back();
  created.number = kFirstRun + static_cast<int32_t>(runs_.size()) - 1;
  created.group = group_index;
  created.run = &run;
  created.work = SequenceWork::kRead;
  created.start_position = group.base_position + run.begin;
  const std::vector<int32_t>& members = group.plan->members;
  if (!members.empty()) created.node = members[static_cast<size_t>(std::max(run.member, 0))];
  if (run.parent >= 0) {
    created.parent = group.first_run + run.parent;
    created.source = created.parent;
  } else if (group.parent >= 0) {
    Sequence& parent = at(group.parent);
    const Sequence& source = at(group.source);
    if (members.empty()) created.node = parent.node;
    created.parent = group.parent;
    created.source = group.source;
    const int32_t run_before = source.end_position() - (source.run == nullptr ? 1 : 0);
    created.start_position = std::min(run_before, parent.end_position() - 1);
    created.run_tokens = PathTokens(parent, created.start_position);
    CountTail(&parent, parent.end_position() - run_before);
  }
  created.run_tokens.insert(created.run_tokens.end(), run.tokens.begin(), run.tokens.end());
  distinct_tokens_ += static_cast<int64_t>(run.tokens.size());
  if (created.source >= 0) {
    created.claims_source = true;
    ++at(created.source).continuations;
  }
  new_runs_.push_back(created.number);
}

// The first that continues a branch beyond what was run of it.
void SequenceForest::CountTail(Sequence* of, int32_t tokens) {
  if (!std::exchange(of->tail_counted, true)) distinct_tokens_ += tokens;
}

void SequenceForest::Add(const Branch& branch, int32_t group, bool awaits_result) {
  ESPALIER_CHECK(branch.number == static_cast<int32_t>(branches_.size()));
  Sequence& created = branches_.emplace_back();
  created.number = branch.number;
  created.parent = branch.parent;
  created.node = branch.node;
  created.answer = &branch;
  created.start_position = branch.start_position;
  created.awaits_result = awaits_result;
  if (group >= 0) JoinGroup(&created, group);
}

// Where the branch's tokens are, or where they are continued.
void SequenceForest::JoinGroup(Sequence* created, int32_t index) {
  RunGroup& group = groups_[static_cast<size_t>(index)];
  const auto run_of_node = [&](int32_t of) {
    const int32_t run = group.plan->run_of[static_cast<size_t>(plans_.member[static_cast<size_t>(of)])];
    return run >= 0 ? group.first_run + run : group.source;
  };
  if (IsGiven(*created)) {
    const size_t member = static_cast<size_t>(plans_.member[static_cast<size_t>(created->node)]);
    group.branches[member] = created->number;
    created->group = index;
    created->source = run_of_node(created->node);
  } else if (created->parent == group.parent) {
    created->source = group.first_run;
  } else {
    created->source = run_of_node(at(created->parent).node);
  }
}

void SequenceForest::AwaitFirstToken(int32_t branch) {
  Sequence& created = at(branch);
  created.work = SequenceWork::kAwait;
  Sequence& parent = at(created.parent);
  const bool by_run = created.source >= 0;
  const bool after_group = by_run && at(created.source).parent == created.parent;
  if (!by_run) {
    created.source = created.parent;
    parent.tail_pending = true;
    CountTail(&parent, 1);
  }
  (after_group ? at(created.source) : parent).awaiting.push_back(created.number);
  created.claims_source = true;
  ++at(created.source).continuations;
}

void SequenceForest::ChangeBarriers(int32_t branch, int32_t change) {
  Sequence& of = at(branch);
  of.barriers += change;
  if (IsGiven(of) && of.source >= 0) at(of.source).barriers += change;
}

std::vector<int32_t> SequenceForest::TakeAwaiting(Sequence* run, const RunUse& use) {
  return std::exchange((use.member < 0 ? *run : at(UseBranch(*run, use))).awaiting, {});
}

int32_t SequenceForest::BranchOfRun(const Sequence& run) const {
  const RunGroup& group = groups_[static_cast<size_t>(run.group)];
  return run.run->member < 0 ? group.parent : group.branches[static_cast<size_t>(run.run->member)];
}

int32_t SequenceForest::NextUsePosition(const Sequence& run) const {
  if (run.uses_issued >= static_cast<int32_t>(run.run->uses.size())) return run.end_position();
  return UsePosition(run, run.run->uses[static_cast<size_t>(run.uses_issued)]);
}

int32_t SequenceForest::GivenTokensBefore(const Sequence& run, int32_t end) const {
  const int32_t base = groups_[static_cast<size_t>(run.group)].base_position;
  int32_t tokens = 0;
  for (const RunSpan& span : run.run->spans)
    tokens += std::max(std::min(base + span.end, end) - (base + span.begin), 0);
  return tokens;
}

std::vector<int32_t> SequenceForest::PathTokens(const Sequence& of, int32_t begin) const {
  std::vector<int32_t> path(static_cast<size_t>(std::max(of.end_position() - begin, 0)));
  for (const Sequence* from = &of; from->end_position() > begin; from = &at(from->parent)) {
    const std::vector<int32_t>& tokens = from->tokens();
    const int32_t first = std::max(begin - from->start_position, 0);
    std::copy(tokens.begin() + first, tokens.end(), path.begin() + from->start_position + first - begin);
    if (from->parent < 0) break;
  }
  return path;
}

}  // namespace espalier
