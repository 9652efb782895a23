#include "engine/branch_forest.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/random_stream.h"

namespace espalier {

namespace {

constexpr double kUnknownVerdict = -std::numeric_limits<double>::infinity();

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

// Creation.

const Branch& BranchForest::AddRoot(int32_t node, uint64_t seed) {
  ESPALIER_CHECK(branches_.empty());
  Branch& created = branches_.emplace_back();
  created.node = node;
  created.stream = RootStream(seed);
  return created;
}

const Branch& BranchForest::Add(int32_t parent_number, int32_t node, int32_t ordinal, bool siblings) {
  const int32_t number = size();
  Branch& created = branches_.emplace_back();
  Branch& parent = mutable_at(parent_number);
  ++parent.children;
  created.number = number;
  created.parent = parent_number;
  created.node = node;
  created.stream = ChildStream(parent.stream, ordinal);
  created.siblings = siblings ? parent_number : parent.siblings;
  created.start_position = parent.end_position();
  created.sum_logprob = parent.sum_logprob;
  created.generated_tokens = parent.generated_tokens;
  created.dead = parent.dead;
  return created;
}

void BranchForest::SetGiven(int32_t branch, const GivenSpec& spec, const std::string& text) {
  Branch& of = mutable_at(branch);
  of.given = true;
  of.scored = spec.score;
  if (of.dead || static_cast<int32_t>(spec.token_ids.size()) > RoomFor(of)) {
    if (spec.score) of.verdict = kUnknownVerdict;
    return;
  }
  of.tokens = spec.token_ids;
  of.text = text;
}

void BranchForest::SetGenerated(int32_t branch,
                                std::shared_ptr<const std::vector<std::string>> stop_strings) {
  if (context_.tokenizer != nullptr)
    mutable_at(branch).decoder = BranchText(*context_.tokenizer, false, std::move(stop_strings));
}

std::string BranchForest::TextOf(const GivenSpec& spec) const {
  std::string text;
  if (context_.tokenizer == nullptr) return text;
  BranchText decoder(*context_.tokenizer, false, nullptr);
  for (const int32_t token : spec.token_ids) text += decoder.Append(token).text;
  return text + decoder.Finish();
}

// Tokens and scores.

FinishReason BranchForest::TakeToken(int32_t branch, const GenerateSpec& spec, const TokenResult& token,
                                     std::string* text) {
  Branch& of = mutable_at(branch);
  if (token.failed()) {
    of.dead = true;
    *text = of.decoder.Finish();
    of.text += *text;
    return FinishReason::kError;
  }
  of.tokens.push_back(token.token_id);
  if (keep_logprobs_) of.logprobs.push_back(token.logprob);
  of.sum_logprob += static_cast<double>(token.logprob);
  ++of.generated_tokens;
  FinishReason reason = FinishReason::kNone;
  if (Contains(spec.stop_token_ids, token.token_id) ||
      (!spec.ignore_eos && Contains(context_.eos_token_ids, token.token_id))) {
    reason = FinishReason::kStopToken;
  } else {
    TextPiece piece = of.decoder.Append(token.token_id);
    *text = std::move(piece.text);
    if (piece.stop_string_found) {
      reason = FinishReason::kStopString;
    } else if (of.size() >= std::min(spec.max_new_tokens, RoomFor(of))) {
      reason = FinishReason::kMaxTokens;
    }
  }
  if (reason == FinishReason::kStopToken || reason == FinishReason::kMaxTokens) *text += of.decoder.Finish();
  of.text += *text;
  return reason;
}

bool BranchForest::TakeScore(int32_t branch, const TokenResult& taken, FinishReason* reason) {
  Branch& of = mutable_at(branch);
  of.scores.push_back(taken);
  if (static_cast<int32_t>(of.scores.size()) < of.size()) return false;
  *reason = FinishReason::kNone;
  for (const TokenResult& score : of.scores) {
    if (score.failed()) {
      of.verdict = kUnknownVerdict;
      *reason = FinishReason::kError;
      return true;
    }
    of.verdict += static_cast<double>(score.logprob);
  }
  return true;
}

void BranchForest::DropScores(int32_t branch) {
  Branch& of = mutable_at(branch);
  if (keep_logprobs_ && of.reason != FinishReason::kError) {
    for (const TokenResult& score : of.scores) of.logprobs.push_back(score.logprob);
  }
  std::vector<TokenResult>().swap(of.scores);
}

void BranchForest::Finish(int32_t branch, FinishReason reason) {
  Branch& of = mutable_at(branch);
  ESPALIER_CHECK(!of.finished);
  of.finished = true;
  of.reason = reason;
}

FinishReason BranchForest::MarkDead(int32_t branch) {
  Branch& of = mutable_at(branch);
  const bool error = std::exchange(of.dead, true) && at(of.parent).reason == FinishReason::kError;
  return error ? FinishReason::kError : FinishReason::kMaxTokens;
}

// Paths.

SelectCandidate BranchForest::CandidateOf(int32_t branch) const {
  const Branch& of = at(branch);
  SelectCandidate candidate{.branch = of.number,
                            .group = of.siblings,
                            .sum_logprob = of.sum_logprob,
                            .generated_tokens = of.generated_tokens};
  bool latest = true;
  for (const Branch* from = &of; from->parent >= 0; from = &at(from->parent)) {
    candidate.failed = candidate.failed || from->reason == FinishReason::kError;
    if (!from->scored) continue;
    if (latest) candidate.latest_verdict = from->verdict;
    latest = false;
    candidate.sum_verdicts += from->verdict;
  }
  return candidate;
}

bool BranchForest::VerdictsKnown(int32_t branch) const {
  const Branch* from = &at(branch);
  while (from->finished && from->given && from->parent >= 0) from = &at(from->parent);
  return from->finished;
}

std::shared_ptr<const PathHistory> BranchForest::History(int32_t branch) {
  histories_.resize(branches_.size());
  const auto known = [&](int32_t number) -> auto& { return histories_[static_cast<size_t>(number)]; };
  std::vector<int32_t> missing;
  for (int32_t number = branch; number >= 0 && known(number) == nullptr; number = at(number).parent)
    missing.push_back(number);
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
    const Branch& of = at(*it);
    auto history = std::make_shared<PathHistory>();
    (of.given ? history->prompt_tokens : history->generated_tokens) = of.tokens;
    if (of.parent >= 0) Continue(known(of.parent), history.get());
    known(*it) = std::move(history);
  }
  return known(branch);
}

// Puts a piece below what is above it; where that has pieces enough, they are joined.
void BranchForest::Continue(const std::shared_ptr<const PathHistory>& above, PathHistory* history) {
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

std::vector<BranchSummary> BranchForest::TakeSummaries() {
  std::vector<BranchSummary> summaries;
  summaries.reserve(branches_.size());
  for (Branch& from : branches_) {
    if (from.parent < 0) continue;
    const bool cut = from.pruned && from.children == 0 && from.reason != FinishReason::kError;
    BranchSummary& summary =
        summaries.emplace_back(BranchSummary{.branch = from.number,
                                             .parent = from.parent,
                                             .node = from.node,
                                             .terminal = from.children == 0,
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
