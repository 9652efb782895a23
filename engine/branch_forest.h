#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/branch.h"
#include "engine/select.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "kernels/step_input.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

struct TreeContext {
  const Tokenizer* tokenizer = nullptr;  // null: no text
  std::vector<int32_t> eos_token_ids;
  int32_t max_path_tokens = 0;
};

// The branches of an answer: what they say, and how their paths are scored. Any branch may get further ones
// below it at any time; which, and when, is decided by what grows the forest (RequestTree, by template).
// Knows nothing of memory, steps or other requests. Not thread-safe.
class BranchForest {
 public:
  // `context` outlives this. `keep_logprobs`: TreeRequest::return_logprobs.
  BranchForest(const TreeContext* context, bool keep_logprobs)
      : context_(*context), keep_logprobs_(keep_logprobs) {}

  // Branches: numbers [0, size). References stay valid.
  int32_t size() const { return static_cast<int32_t>(branches_.size()); }
  const Branch& at(int32_t number) const { return branches_[static_cast<size_t>(number)]; }
  // Tokens that have room on the path from a branch's first position on.
  int32_t RoomFor(const Branch& of) const { return context_.max_path_tokens - of.start_position; }

  // A branch without tokens: the first one, or one at the end of `parent`, which has all of its tokens.
  // `siblings`: whether it is one of several of its node (SelectCandidate::group).
  const Branch& AddRoot(int32_t node, uint64_t seed);
  const Branch& Add(int32_t parent, int32_t node, int32_t ordinal, bool siblings);
  // Its tokens are given, or will be generated.
  void SetGiven(int32_t branch, const GivenSpec& spec, const std::string& text);
  void SetGenerated(int32_t branch, std::shared_ptr<const std::vector<std::string>> stop_strings);

  // Takes one sampled token, or none where sampling failed: `text` is what it adds. Returns why the branch
  // ends with it, kNone if it does not: then the caller finishes it. Precondition: generated, not finished.
  FinishReason TakeToken(int32_t branch, const GenerateSpec& spec, const TokenResult& token,
                         std::string* text);
  // Takes the next score of a scored given branch. True: that was the last one; `reason` is kError if one of
  // them failed.
  bool TakeScore(int32_t branch, const TokenResult& score, FinishReason* reason);
  // The scores have been reported: what the end does not repeat is freed.
  void DropScores(int32_t branch);

  void Finish(int32_t branch, FinishReason reason);
  // Before its end: there is no room on its path, or it is below an error, and so is all below it. Returns
  // the reason to finish it with.
  FinishReason MarkDead(int32_t branch);
  void MarkPruned(int32_t branch) { branches_[static_cast<size_t>(branch)].pruned = true; }

  // How the path to the branch is scored by selections.
  SelectCandidate CandidateOf(int32_t branch) const;
  // Whether all scores that were asked for on the path are there. Given branches without scores of their own
  // are finished from the start, whatever stands above them. A generated branch has sampled its tokens after
  // the scores above it were asked for.
  bool VerdictsKnown(int32_t branch) const;

  // The tokens of the path to the end of a branch that has all of its tokens, for penalties. Made once: paths
  // share what they have in common.
  std::shared_ptr<const PathHistory> History(int32_t branch);
  // All branches but the root, once: their tokens and texts are moved out.
  std::vector<BranchSummary> TakeSummaries();

  // The text of given tokens.
  std::string TextOf(const GivenSpec& spec) const;

 private:
  Branch& mutable_at(int32_t number) { return branches_[static_cast<size_t>(number)]; }
  static void Continue(const std::shared_ptr<const PathHistory>& above, PathHistory* history);

  const TreeContext& context_;
  const bool keep_logprobs_;
  std::deque<Branch> branches_;                                // by number
  std::vector<std::shared_ptr<const PathHistory>> histories_;  // [branches] as far as they were asked for
};

}  // namespace espalier
