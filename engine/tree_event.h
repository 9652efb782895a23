#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/base/result.h"
#include "kernels/step_input.h"

namespace espalier {

// kError: the model's logits were not finite (see TokenResult). Nothing was sampled or scored; other branches
// go on.
enum class FinishReason : uint8_t { kNone, kStopToken, kStopString, kMaxTokens, kPruned, kCancelled, kError };

// The request has been admitted and its first step is about to be planned.
struct TreeStarted {
  uint64_t request_id = 0;
  uint64_t seed = 0;
  int32_t prompt_tokens = 0;              // tokens of the root
  int32_t cached_tokens = 0;              // of these, tokens found in the prefix cache
  std::vector<int32_t> prompt_token_ids;  // of the root, if asked for
};

// The tokens of a branch's path take more than one step to compute. At most one event a step and request,
// with the commit of a step that computed a part of them.
struct TreeProgress {
  int32_t branch = 0;
  int32_t computed_tokens = 0;  // of the path
  int32_t total_tokens = 0;     // that the branch needs before it can go on
};

// What one branch gained in one step.
struct BranchDelta {
  int32_t branch = 0;
  int32_t parent = -1;  // parent branch
  int32_t node = 0;     // index into TreeRequest::nodes
  std::vector<int32_t> token_ids;
  std::string text;  // complete UTF-8; may lag behind token_ids (half characters, possible stop strings)
  std::vector<float> logprobs;  // [token_ids] of generated and of scored given tokens; else empty
  std::vector<std::vector<TokenLogprob>> top_logprobs;  // [token_ids] if asked for
  // Generated branches: set in their last delta. Scored given ones: kError, without logprobs, or kNone.
  FinishReason finish_reason = FinishReason::kNone;
};

// All branches of a request that gained something in a step: one message a step.
struct TreeDelta {
  uint64_t step = 0;
  std::vector<BranchDelta> branches;
};

// A select barrier was resolved. Branches by number.
struct TreeSelected {
  int32_t node = 0;
  std::vector<int32_t> kept;    // best first
  std::vector<int32_t> pruned;  // best first
  std::vector<double> scores;   // of kept, then of pruned
};

struct BranchSummary {
  int32_t branch = 0;
  int32_t parent = -1;
  int32_t node = 0;
  bool terminal = false;           // no branch continues it
  std::vector<int32_t> token_ids;  // of this branch alone
  std::string text;
  double sum_logprob = 0.0;  // generated tokens from the root to the end of this branch
  FinishReason finish_reason = FinishReason::kNone;
  std::vector<float> logprobs = {};    // [token_ids] if asked for, of generated and of scored given branches
  std::optional<double> verdict = {};  // scored given branches: the sum of their log-probabilities
};

struct TreeUsage {
  int64_t prompt_tokens = 0;    // tokens of all given nodes, each instance counted
  int64_t cached_tokens = 0;    // of these: not computed because their KV was there
  int64_t computed_tokens = 0;  // rows that were run for this request
  int64_t distinct_tokens = 0;  // rows that it needs if nothing is cached and none is run twice
  int64_t generated_tokens = 0;
  int64_t steps = 0;
  int64_t kv_read_bytes = 0;  // the request's share (by kv_read_bytes_sequence) of the bytes of its steps
  int64_t kv_read_bytes_sequence = 0;  // what reading each branch's own path would have cost
  int64_t first_token_us = 0;          // submission to the first generated token (0: none)
  int64_t total_us = 0;                // submission to the end
};

struct TreeFinished {
  std::vector<BranchSummary> branches;  // all branches but the root's, by number
  TreeUsage usage;
  // What is left of the request: freed with the event, by the thread that takes it, not by the engine's.
  std::shared_ptr<const void> remains = nullptr;
};

// Events of one request: TreeStarted, then progress, deltas and selections, then exactly one of TreeFinished
// or Error.
using TreeEvent = std::variant<TreeStarted, TreeProgress, TreeDelta, TreeSelected, TreeFinished, Error>;

// Receives the events of one request, in order, from the engine's thread. Must not block and must not call
// the engine.
class TreeEventSink {
 public:
  virtual ~TreeEventSink() = default;
  virtual void OnEvent(TreeEvent event) = 0;
  // After the last event: whether its client has yet to take some of the answer. While the sink lives and
  // says so, the request counts as one that runs for its peer. Thread-safe and quick.
  virtual bool HasUnread() const { return false; }
};

}  // namespace espalier
