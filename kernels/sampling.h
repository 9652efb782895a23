#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/step_input.h"
#include "kernels/token_counts.h"

namespace espalier {

// Sampling on the host, for backends whose logits lie in host memory. Everything here depends only on its
// arguments: the same logits, parameters, history, stream and position give the same token and bits.
// Logits: fp32 [vocab], vocab >= 1.

// What softmax needs of one row of logits.
struct LogitSummary {
  int32_t argmax = 0;  // ties to the lowest id; 0 where a logit is not finite
  float max = 0.0F;
  // Log of the sum of exp(logit - max), accumulated in double; NaN where a logit is not finite.
  double log_sum = 0.0;

  // Whether all logits are.
  bool finite() const { return !std::isnan(log_sum); }
  // The natural log-probability of a token with this logit; NaN where a logit of the row is not finite.
  float LogProbability(float logit) const;
};
LogitSummary Summarize(std::span<const float> logits);

// The `count` most likely tokens, most likely first, ties to the lower id; all of them if count is larger.
// None where a logit is not finite.
std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, const LogitSummary& summary,
                                      int32_t count);

// Samples a token in the order that SamplingParams states; fails as TokenResult says. top_p counts the
// probabilities of the tokens that top_k and min_p left, which add up to one. The sample inverts the
// cumulative distribution in ascending token id with the number `position` of the random stream `stream`.
// `counts` may be null where !UsesHistory().
TokenResult SampleToken(std::span<const float> logits, const LogitSummary& summary,
                        const SamplingParams& params, const TokenCounts* counts, uint64_t stream,
                        int32_t position, int32_t top_logprobs);

// The log-probability of a given token in [0, vocab); fails in the same way.
TokenResult ScoreToken(std::span<const float> logits, const LogitSummary& summary, int32_t token_id,
                       int32_t top_logprobs);

// The state of sequence slots that sampling reads and writes. Not thread-safe.
class SequenceStore {
 public:
  // The id of a row's token. Precondition: a referenced sequence slot has sampled a token.
  int32_t Resolve(const RowToken& token) const;
  // Null where the sequence has no history.
  const TokenCounts* Counts(int32_t sequence_slot) const;

  void SetHistory(const SequenceHistory& history);
  // Notes the token sampled for a sequence. One that no longer uses its history forgets it.
  void Sampled(int32_t sequence_slot, int32_t token_id, bool uses_history);

  const HistoryCounter& histories() const { return histories_; }

 private:
  std::unordered_map<int32_t, int32_t> last_token_;
  std::unordered_map<int32_t, TokenCounts> counts_;
  HistoryCounter histories_;
};

// Calls body(0) ... body(count - 1), in any order and from any threads, and returns when all are done.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;
void SerialFor(int64_t count, const std::function<void(int64_t)>& body);

// Logits of the rows [first_row, first_row + rows) of a step's logit_rows.
struct LogitRows {
  const float* data = nullptr;  // [rows, stride]
  int64_t stride = 0;
  int64_t vocab = 0;
  int32_t first_row = 0;
  int32_t rows = 0;

  bool Has(int32_t logit_index) const { return logit_index >= first_row && logit_index < first_row + rows; }
  std::span<const float> At(int32_t logit_index) const {
    return {data + (logit_index - first_row) * stride, static_cast<size_t>(vocab)};
  }
};

// The samples and scores of a step that ask for these rows, and their sequences' new state. Histories of the
// step must have been set, and earlier rows sampled. Fills in samples and scores, and appends the rows to
// logits if the step asks for them.
void SampleRows(const StepInput& step, const LogitRows& logits, const ParallelFor& parallel,
                SequenceStore* sequences, StepResult* result);

}  // namespace espalier
