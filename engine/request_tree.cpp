#include "engine/request_tree.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/random_stream.h"

namespace espalier {

RequestTree::RequestTree(TreeRequest request, const TreeContext* context)
    : request_(std::move(request)),
      nodes_(request_.nodes.size()),
      sequences_(this, PlanRuns(request_)),
      branches_(context, request_.return_logprobs),
      open_(request_.stays_open) {
  const std::vector<int32_t> first_ordinals = FirstOrdinals(request_);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const TreeNodeSpec& spec = request_.nodes[i];
    nodes_[i].first_ordinal = first_ordinals[i];
    const auto* generate = std::get_if<GenerateSpec>(&spec.content);
    if (generate != nullptr && !generate->stop_strings.empty())
      nodes_[i].stop_strings = std::make_shared<const std::vector<std::string>>(generate->stop_strings);
    if (spec.parent < 0) continue;
    if (const auto* given_spec = std::get_if<GivenSpec>(&spec.content); given_spec != nullptr)
      nodes_[i].given_text = branches_.TextOf(*given_spec);
    Node& parent = node(spec.parent);
    const bool selects = std::holds_alternative<SelectSpec>(spec.content);
    (selects ? parent.selects : parent.children).push_back(static_cast<int32_t>(i));
    if (generate != nullptr) parent.generates_below = true;
  }
}

void RequestTree::Start(std::vector<int32_t>* created) {
  nodes_[0].closed = true;
  created->push_back(CreateBranch(-1, 0, 0, sequences_.OpenGroup(-1, 0)));
  std::vector<TreeSelected> selected;
  std::vector<int32_t> candidates;
  Expand(std::numeric_limits<int64_t>::max(), created, &selected, &candidates);
  ESPALIER_CHECK(selected.empty());  // a selection needs scores, and nothing has run
}

int32_t RequestTree::SampleLimit(const Branch& of) const {
  return std::min(generate(of)->max_new_tokens, branches_.RoomFor(of));
}

// Creation.

int32_t RequestTree::CreateBranch(int32_t parent, int32_t node_index, int32_t ordinal, int32_t group) {
  const auto* spec = std::get_if<GenerateSpec>(&request_.nodes[static_cast<size_t>(node_index)].content);
  const bool siblings = spec != nullptr && spec->branches > 1;
  const Branch& created = parent < 0 ? branches_.AddRoot(node_index, request_.seed)
                                     : branches_.Add(parent, node_index, ordinal, siblings);
  node(node_index).branches.push_back(created.number);
  ++unfinished_;
  sequences_.Add(created, group, spec != nullptr && spec->awaits_result);
  sequences_.ChangeBarriers(created.number, static_cast<int32_t>(node(node_index).selects.size()));
  if (spec == nullptr) {
    InitGiven(created);
  } else {
    InitGenerated(created);
  }
  return created.number;
}

void RequestTree::InitGiven(const Branch& created) {
  const GivenSpec& spec = *given(created);
  const Node& of = node(created.node);
  to_spawn_.push_back(created.number);
  branches_.SetGiven(created.number, spec, of.given_text);
  if (created.tokens.empty()) return Finish(created, branches_.MarkDead(created.number));
  const bool terminal = of.children.empty() && of.selects.empty();
  if (!spec.score && !terminal) Finish(created, FinishReason::kNone);
}

void RequestTree::InitGenerated(const Branch& created) {
  if (created.dead || SampleLimit(created) <= 0) return Finish(created, branches_.MarkDead(created.number));
  branches_.SetGenerated(created.number, node(created.node).stop_strings);
  sequences_.AwaitFirstToken(created.number);
}

void RequestTree::CreateBranches(int32_t parent, int32_t node_index, int32_t group,
                                 std::vector<int32_t>* created) {
  const auto* generate_spec =
      std::get_if<GenerateSpec>(&request_.nodes[static_cast<size_t>(node_index)].content);
  const int32_t count = generate_spec != nullptr ? generate_spec->branches : 1;
  for (int32_t i = 0; i < count; ++i)
    created->push_back(CreateBranch(parent, node_index, node(node_index).first_ordinal + i, group));
}

void RequestTree::Spawn(int32_t number, std::vector<int32_t>* created) {
  const int32_t index = branch(number).node;
  const int32_t group =
      given(branch(number)) != nullptr ? sequences_.at(number).group : sequences_.OpenGroup(number, index);
  for (const int32_t child : node(index).children) CreateBranches(number, child, group, created);
  Node& spawned = node(index);
  ++spawned.spawned;
  if (spawned.closed && spawned.spawned == static_cast<int32_t>(spawned.branches.size())) {
    spawned.children_closed = true;
    for (const int32_t child : spawned.children) Close(child);
  }
}

// Tokens and scores.

void RequestTree::TakeToken(int32_t branch_number, const TokenResult& token, std::string* text) {
  const Branch& of = branch(branch_number);
  const FinishReason reason = branches_.TakeToken(branch_number, *generate(of), token, text);
  if (reason != FinishReason::kNone) Finish(of, reason);
}

bool RequestTree::TakeScore(int32_t branch_number, const TokenResult& score) {
  FinishReason reason = FinishReason::kNone;
  if (!branches_.TakeScore(branch_number, score, &reason)) return false;
  Finish(branch(branch_number), reason);
  return true;
}

void RequestTree::FinishGiven(int32_t branch_number) { Finish(branch(branch_number), FinishReason::kNone); }

void RequestTree::Finish(const Branch& of, FinishReason reason) {
  branches_.Finish(of.number, reason);
  --unfinished_;
  Node& at = node(of.node);
  ++at.finished;
  if (generate(of) != nullptr) {
    to_spawn_.push_back(of.number);
    // The last token's row was run where its logits were not finite.
    generated_rows_ += reason == FinishReason::kError ? of.size() : std::max(of.size() - 1, 0);
  }
  CheckBarrier(of.node);
  // Barriers below wait for the scores of all branches here.
  if (of.scored && at.finished == static_cast<int32_t>(at.branches.size())) CheckBarriersBelow(of.node);
}

// Expansion.

void RequestTree::Expand(int64_t budget, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
                         std::vector<int32_t>* candidates) {
  int64_t resolved = 0;
  const auto in_budget = [&] {
    return resolved + static_cast<int64_t>(created->size() + candidates->size()) < budget;
  };
  while (!to_spawn_.empty() || (!ready_selects_.empty() && in_budget())) {
    std::sort(to_spawn_.begin(), to_spawn_.end());
    const std::vector<int32_t> parents = std::exchange(to_spawn_, {});
    for (const int32_t number : parents) Spawn(number, created);
    if (!to_spawn_.empty() || ready_selects_.empty() || !in_budget()) continue;
    const int32_t select = ready_selects_.top();
    ready_selects_.pop();
    Resolve(select, created, selected, candidates);
    ++resolved;
  }
}

// No instances of the node will be created from now on; what follows from it for the nodes below.
void RequestTree::Close(int32_t first) {
  std::vector<int32_t> stack(1, first);
  while (!stack.empty()) {
    const int32_t index = stack.back();
    stack.pop_back();
    Node& closing = node(index);
    closing.closed = true;
    CheckBarrier(index);
    if (closing.spawned != static_cast<int32_t>(closing.branches.size()) || closing.children_closed) continue;
    closing.children_closed = true;
    stack.insert(stack.end(), closing.children.begin(), closing.children.end());
  }
}

void RequestTree::CheckBarrier(int32_t index) {
  const Node& at = node(index);
  if (at.selects.empty() || !at.closed || at.finished != static_cast<int32_t>(at.branches.size())) return;
  for (const int32_t number : at.branches) {
    if (!branches_.VerdictsKnown(number)) return;
  }
  for (const int32_t select : at.selects) ready_selects_.push(select);
}

// The scores at a node are known: barriers below it may have waited for nothing else.
void RequestTree::CheckBarriersBelow(int32_t first) {
  std::vector<int32_t> stack(1, first);
  while (!stack.empty()) {
    const int32_t index = stack.back();
    stack.pop_back();
    for (const int32_t child : node(index).children) {
      if (!std::holds_alternative<GivenSpec>(request_.nodes[static_cast<size_t>(child)].content)) continue;
      CheckBarrier(child);
      stack.push_back(child);
    }
  }
}

void RequestTree::Resolve(int32_t index, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
                          std::vector<int32_t>* taking_part) {
  const TreeNodeSpec& spec = request_.nodes[static_cast<size_t>(index)];
  std::vector<SelectCandidate> candidates;
  for (const int32_t number : node(spec.parent).branches) {
    sequences_.ChangeBarriers(number, -1);
    taking_part->push_back(number);
    candidates.push_back(branches_.CandidateOf(number));
  }
  SelectOutcome outcome = Select(std::get<SelectSpec>(spec.content), candidates);
  Node& resolved = node(index);
  resolved.branches = outcome.kept;
  std::sort(resolved.branches.begin(), resolved.branches.end());
  for (const int32_t number : outcome.pruned) branches_.MarkPruned(number);
  for (const int32_t number : resolved.branches)
    sequences_.ChangeBarriers(number, static_cast<int32_t>(resolved.selects.size()));
  if (!candidates.empty())
    selected->push_back(
        {index, std::move(outcome.kept), std::move(outcome.pruned), std::move(outcome.scores)});
  for (const int32_t select : resolved.selects) ready_selects_.push(select);
  for (const int32_t number : resolved.branches) {
    const int32_t group = sequences_.OpenGroup(number, index);
    for (const int32_t child : resolved.children) CreateBranches(number, child, group, created);
  }
  for (const int32_t child : resolved.children) Close(child);
}

}  // namespace espalier
