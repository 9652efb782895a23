#include "engine/request_tree.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/random_stream.h"

namespace espalier {

namespace {

constexpr double kUnknownVerdict = -std::numeric_limits<double>::infinity();

}  // namespace

RequestTree::RequestTree(TreeRequest request, const TreeContext* context)
    : request_(std::move(request)),
      context_(context),
      nodes_(request_.nodes.size()),
      sequences_(this, PlanRuns(request_)),
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
      nodes_[i].given_text = TextOf(*given_spec);
    Node& parent = node(spec.parent);
    const bool selects = std::holds_alternative<SelectSpec>(spec.content);
    (selects ? parent.selects : parent.children).push_back(static_cast<int32_t>(i));
    if (generate != nullptr) parent.generates_below = true;
  }
}

std::string RequestTree::TextOf(const GivenSpec& spec) const {
  std::string text;
  if (context_->tokenizer == nullptr) return text;
  BranchText decoder(*context_->tokenizer, false, nullptr);
  for (const int32_t token : spec.token_ids) text += decoder.Append(token).text;
  return text + decoder.Finish();
}

void RequestTree::Start(std::vector<int32_t>* created) {
  nodes_[0].closed = true;
  created->push_back(CreateBranch(-1, 0, 0, sequences_.OpenGroup(-1, 0)));
  std::vector<TreeSelected> selected;
  std::vector<int32_t> candidates;
  Grow(std::numeric_limits<int64_t>::max(), created, &selected, &candidates);
  ESPALIER_CHECK(selected.empty());  // a selection needs scores, and nothing has run
}

int32_t RequestTree::DrawLimit(const Branch& of) const {
  return std::min(generate(of)->max_new_tokens, context_->max_path_tokens - of.start_position);
}

// Creation.

int32_t RequestTree::CreateBranch(int32_t parent_number, int32_t node_index, int32_t ordinal, int32_t group) {
  const int32_t number = size();
  Branch& created = branches_.emplace_back();
  created.number = number;
  created.parent = parent_number;
  created.node = node_index;
  node(node_index).branches.push_back(number);
  ++unfinished_;
  const GivenSpec* given_spec = given(created);
  const GenerateSpec* generate_spec = generate(created);
  if (parent_number < 0) {
    created.stream = RootStream(request_.seed);
  } else {
    Branch& parent = at(parent_number);
    ++parent.children;
    created.stream = ChildStream(parent.stream, ordinal);
    created.siblings =
        generate_spec != nullptr && generate_spec->branches > 1 ? parent_number : parent.siblings;
    created.start_position = parent.end_position();
    created.sum_logprob = parent.sum_logprob;
    created.generated_tokens = parent.generated_tokens;
    created.dead = parent.dead;
  }
  sequences_.Add(created, group, generate_spec != nullptr && generate_spec->awaits_result);
  sequences_.ChangeBarriers(number, static_cast<int32_t>(node(node_index).selects.size()));
  if (given_spec != nullptr) {
    InitGiven(&created, *given_spec);
  } else {
    InitGenerated(&created);
  }
  return number;
}

void RequestTree::InitGiven(Branch* created, const GivenSpec& spec) {
  const Node& of = node(created->node);
  to_spawn_.push_back(created->number);
  const int32_t room = context_->max_path_tokens - created->start_position;
  created->scored = spec.score;
  if (created->dead || static_cast<int32_t>(spec.token_ids.size()) > room) {
    if (spec.score) created->verdict = kUnknownVerdict;
    return FinishDead(created);
  }
  created->tokens = spec.token_ids;
  created->text = of.given_text;
  const bool tip = of.children.empty() && of.selects.empty();
  if (!spec.score && !tip) Finish(created, FinishReason::kNone);
}

void RequestTree::InitGenerated(Branch* created) {
  if (created->dead || DrawLimit(*created) <= 0) return FinishDead(created);
  if (context_->tokenizer != nullptr)
    created->decoder = BranchText(*context_->tokenizer, false, node(created->node).stop_strings);
  sequences_.AwaitFirstToken(created->number);
}

// No room, or below an error.
void RequestTree::FinishDead(Branch* created) {
  const bool error = created->dead && branch(created->parent).reason == FinishReason::kError;
  created->dead = true;
  Finish(created, error ? FinishReason::kError : FinishReason::kMaxTokens);
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

void RequestTree::TakeToken(int32_t number, const TokenResult& token, std::string* text) {
  Branch* of = &at(number);
  const GenerateSpec& spec = *generate(*of);
  if (token.failed()) {
    of->dead = true;
    *text = of->decoder.Finish();
    of->text += *text;
    return Finish(of, FinishReason::kError);
  }
  of->tokens.push_back(token.token_id);
  if (request_.return_logprobs) of->logprobs.push_back(token.logprob);
  of->sum_logprob += static_cast<double>(token.logprob);
  ++of->generated_tokens;
  const auto contains = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token.token_id) != ids.end();
  };
  FinishReason reason = FinishReason::kNone;
  if (contains(spec.stop_token_ids) || (!spec.ignore_eos && contains(context_->eos_token_ids))) {
    reason = FinishReason::kStopToken;
  } else {
    TextPiece piece = of->decoder.Append(token.token_id);
    *text = std::move(piece.text);
    if (piece.stop_string_found) {
      reason = FinishReason::kStopString;
    } else if (of->size() >= DrawLimit(*of)) {
      reason = FinishReason::kMaxTokens;
    }
  }
  if (reason == FinishReason::kStopToken || reason == FinishReason::kMaxTokens) *text += of->decoder.Finish();
  of->text += *text;
  if (reason != FinishReason::kNone) Finish(of, reason);
}

bool RequestTree::TakeScore(int32_t number, const TokenResult& taken) {
  Branch* of = &at(number);
  of->scores.push_back(taken);
  if (static_cast<int32_t>(of->scores.size()) < of->size()) return false;
  for (const TokenResult& score : of->scores) {
    if (score.failed()) {
      of->verdict = kUnknownVerdict;
      Finish(of, FinishReason::kError);
      return true;
    }
    of->verdict += static_cast<double>(score.logprob);
  }
  Finish(of, FinishReason::kNone);
  return true;
}

void RequestTree::DropScores(int32_t branch) {
  Branch& of = at(branch);
  if (request_.return_logprobs && of.reason != FinishReason::kError) {
    for (const TokenResult& score : of.scores) of.logprobs.push_back(score.logprob);
  }
  std::vector<TokenResult>().swap(of.scores);
}

void RequestTree::FinishGiven(int32_t branch) { Finish(&at(branch), FinishReason::kNone); }

void RequestTree::Finish(Branch* of, FinishReason reason) {
  ESPALIER_CHECK(!of->finished);
  of->finished = true;
  of->reason = reason;
  --unfinished_;
  ++node(of->node).finished;
  if (generate(*of) != nullptr) {
    to_spawn_.push_back(of->number);
    // The last token's row was run where its logits were not finite.
    generated_rows_ += reason == FinishReason::kError ? of->size() : std::max(of->size() - 1, 0);
  }
  CheckBarrier(of->node);
  // Barriers below wait for the scores of all branches here.
  const Node& of_node = node(of->node);
  if (of->scored && of_node.finished == static_cast<int32_t>(of_node.branches.size()))
    CheckBarriersBelow(of->node);
}

// Growth.

void RequestTree::Grow(int64_t budget, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
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
    if (!VerdictsKnown(branch(number))) return;
  }
  for (const int32_t select : at.selects) ready_selects_.push(select);
}

// Given branches without scores of their own are finished from the start, whatever stands above them. A
// generated branch has drawn its tokens after the scores above it were asked for.
bool RequestTree::VerdictsKnown(const Branch& of) const {
  const Branch* at = &of;
  while (at->finished && given(*at) != nullptr && at->parent >= 0) at = &branch(at->parent);
  return at->finished;
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

SelectCandidate RequestTree::CandidateOf(const Branch& of) const {
  SelectCandidate candidate{.branch = of.number,
                            .group = of.siblings,
                            .sum_logprob = of.sum_logprob,
                            .generated_tokens = of.generated_tokens};
  bool latest = true;
  for (const Branch* at = &of; at->parent >= 0; at = &branch(at->parent)) {
    candidate.failed = candidate.failed || at->reason == FinishReason::kError;
    if (!at->scored) continue;
    if (latest) candidate.latest_verdict = at->verdict;
    latest = false;
    candidate.sum_verdicts += at->verdict;
  }
  return candidate;
}

void RequestTree::Resolve(int32_t index, std::vector<int32_t>* created, std::vector<TreeSelected>* selected,
                          std::vector<int32_t>* taking_part) {
  const TreeNodeSpec& spec = request_.nodes[static_cast<size_t>(index)];
  std::vector<SelectCandidate> candidates;
  for (const int32_t number : node(spec.parent).branches) {
    sequences_.ChangeBarriers(number, -1);
    taking_part->push_back(number);
    candidates.push_back(CandidateOf(branch(number)));
  }
  SelectOutcome outcome = Select(std::get<SelectSpec>(spec.content), candidates);
  Node& resolved = node(index);
  resolved.branches = outcome.kept;
  std::sort(resolved.branches.begin(), resolved.branches.end());
  for (const int32_t number : outcome.pruned) at(number).pruned = true;
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

// Reports.

std::shared_ptr<const PathHistory> RequestTree::History(int32_t branch_number) {
  histories_.resize(branches_.size());
  const auto known = [&](int32_t number) -> auto& { return histories_[static_cast<size_t>(number)]; };
  std::vector<int32_t> missing;
  for (int32_t at = branch_number; at >= 0 && known(at) == nullptr; at = branch(at).parent)
    missing.push_back(at);
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
    const Branch& of = branch(*it);
    auto history = std::make_shared<PathHistory>();
    (given(of) != nullptr ? history->prompt_tokens : history->generated_tokens) = of.tokens;
    if (of.parent >= 0) Continue(known(of.parent), history.get());
    known(*it) = std::move(history);
  }
  return known(branch_number);
}

// Puts a piece below what is above it; where that has pieces enough, they are joined.
void RequestTree::Continue(const std::shared_ptr<const PathHistory>& above, PathHistory* history) {
  if (above->pieces < kMaxHistoryPieces) {
    history->above = above;
    history->pieces = above->pieces + 1;
    return;
  }
  const auto append = [](std::vector<int32_t>* to, const std::vector<int32_t>& tokens) {
    to->insert(to->end(), tokens.begin(), tokens.end());
  };
  for (const PathHistory* piece = above.get(); piece != nullptr; piece = piece->above.get()) {
    append(&history->prompt_tokens, piece->prompt_tokens);
    append(&history->generated_tokens, piece->generated_tokens);
  }
}

std::vector<BranchSummary> RequestTree::TakeSummaries() {
  std::vector<BranchSummary> summaries;
  summaries.reserve(branches_.size());
  for (Branch& from : branches_) {
    if (from.parent < 0) continue;
    const bool cut = from.pruned && from.children == 0 && from.reason != FinishReason::kError;
    BranchSummary& summary =
        summaries.emplace_back(BranchSummary{.branch = from.number,
                                             .parent = from.parent,
                                             .node = from.node,
                                             .tip = from.children == 0,
                                             .token_ids = std::move(from.tokens),
                                             .text = std::move(from.text),
                                             .sum_logprob = from.sum_logprob,
                                             .finish_reason = cut ? FinishReason::kPruned : from.reason,
                                             .logprobs = std::move(from.logprobs)});
    if (from.scored) summary.verdict = from.verdict;
  }
  return summaries;
}

}  // namespace espalier
