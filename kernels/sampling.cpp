#include "kernels/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/base/fast_exp.h"
#include "kernels/base/philox.h"
#include "kernels/base/result.h"
#include "kernels/token_filter.h"

namespace espalier {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;  // independent accumulators, so that loops are vectorised in a fixed order

// The largest, NaN counting as -infinity.
float MaxOf(std::span<const float> logits) {
  std::array<float, kLanes> lanes;
  lanes.fill(-kInfinity);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
  }
  float max = -kInfinity;
  for (; i < logits.size(); ++i) max = logits[i] > max ? logits[i] : max;
  for (const float lane : lanes) max = lane > max ? lane : max;
  return max;
}

// The lowest id of a logit that has this value; 0 where none has. Blocks first: their loop has no early end.
int32_t FirstOf(std::span<const float> logits, float value) {
  constexpr size_t kBlock = 4 * kLanes;
  size_t i = 0;
  for (; i + kBlock <= logits.size(); i += kBlock) {
    int32_t any = 0;
    for (size_t j = 0; j < kBlock; ++j) any |= logits[i + j] == value ? 1 : 0;
    if (any != 0) break;
  }
  const auto found = std::find(logits.begin() + static_cast<std::ptrdiff_t>(i), logits.end(), value);
  return found == logits.end() ? 0 : static_cast<int32_t>(found - logits.begin());
}

// exp(logit - max); NaN where the logit is infinite or NaN: x * 0 is 0 for all others.
float WeightOf(float logit, float max) { return ExpNonPositive(logit - max) + logit * 0.0F; }

// The sum of exp(logit - max), NaN where a logit is not finite: short fp32 runs, added up in double.
double SumOfExp(std::span<const float> logits, float max) {
  constexpr size_t kRun = 64 * kLanes;
  double sum = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kRun) {
    const std::span<const float> run = logits.subspan(begin, std::min(kRun, logits.size() - begin));
    std::array<float, kLanes> lanes{};
    size_t i = 0;
    for (; i + kLanes <= run.size(); i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) lanes[j] += WeightOf(run[i + j], max);
    }
    for (; i < run.size(); ++i) sum += WeightOf(run[i], max);
    for (const float lane : lanes) sum += lane;
  }
  return sum;
}

void AddBiases(const SamplingParams& params, std::vector<float>* logits) {
  for (const auto& [id, bias] : params.logit_bias) {
    ESPALIER_CHECK(id >= 0 && static_cast<size_t>(id) < logits->size());
    (*logits)[static_cast<size_t>(id)] += bias;
  }
}

// Each token's counts in all parts of the path, added up.
class TotalCounts {
 public:
  // Calls each(token_id, count) once for every token. Precondition: ids are in [0, vocab).
  template <typename Each>
  void ForEach(const TokenCounts& counts, size_t vocab, const Each& each) {
    if (totals_.size() < vocab) totals_.resize(vocab, 0);
    counts.ForEach([&](int32_t id, int32_t count) {
      ESPALIER_CHECK(id >= 0 && static_cast<size_t>(id) < vocab);
      int32_t& total = totals_[static_cast<size_t>(id)];
      if (total == 0) {
        total = 1;
        ids_.push_back(id);
      }
      total += count;
    });
    for (const int32_t id : ids_) each(id, std::exchange(totals_[static_cast<size_t>(id)], 0) - 1);
    ids_.clear();
  }

 private:
  std::vector<int32_t> totals_;  // [ids] count + 1; 0: does not occur. All 0 between calls
  std::vector<int32_t> ids_;
};

// Repetition: Keskar et al., "CTRL", 2019, section 4.1.
void Penalise(const SamplingParams& params, const TokenCounts& counts, std::vector<float>* logits) {
  thread_local TotalCounts totals;
  totals.ForEach(counts, logits->size(), [&](int32_t id, int32_t count) {
    float& logit = (*logits)[static_cast<size_t>(id)];
    logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) {
      logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
    }
  });
}

// The largest logit before penalties of those that penalties made `infinity`, ties to the lower id.
int32_t LargestOverflown(std::span<const float> penalised, float infinity, std::vector<float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (penalised[i] != infinity) logits[i] = -kInfinity;
  }
  return FirstOf(logits, MaxOf(logits));
}

int32_t SampleAdjusted(std::span<const float> logits, const LogitSummary& summary,
                       const SamplingParams& params, const TokenCounts* counts, double uniform) {
  const bool penalises = params.UsesHistory() && counts != nullptr;
  if (params.logit_bias.empty() && !penalises) return SampleTokenId(logits, summary.argmax, params, uniform);
  std::vector<float> adjusted(logits.begin(), logits.end());
  AddBiases(params, &adjusted);
  if (penalises) Penalise(params, *counts, &adjusted);
  const float max = MaxOf(adjusted);
  if (std::isfinite(max)) return SampleTokenId(adjusted, FirstOf(adjusted, max), params, uniform);
  std::vector<float> biased(logits.begin(), logits.end());
  AddBiases(params, &biased);
  return LargestOverflown(adjusted, max, std::move(biased));
}

}  // namespace

float LogitSummary::LogProbability(float logit) const {
  // Two finite logits may lie further apart than fp32 reaches. std::max keeps NaN, its first argument.
  constexpr double kLowest = std::numeric_limits<float>::lowest();
  return static_cast<float>(
      std::max(static_cast<double>(logit) - static_cast<double>(max) - log_sum, kLowest));
}

LogitSummary Summarize(std::span<const float> logits) {
  ESPALIER_CHECK(!logits.empty());
  LogitSummary summary;
  summary.max = MaxOf(logits);
  summary.log_sum = std::log(SumOfExp(logits, summary.max));
  if (summary.finite()) summary.argmax = FirstOf(logits, summary.max);
  return summary;
}

std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, const LogitSummary& summary,
                                      int32_t count) {
  std::vector<TokenLogprob> top;
  if (!summary.finite()) return top;
  for (const int32_t id : LargestLogits(logits, count)) top.push_back({id, logits[static_cast<size_t>(id)]});
  std::stable_sort(top.begin(), top.end(),
                   [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; });
  for (TokenLogprob& token : top) token.logprob = summary.LogProbability(token.logprob);
  return top;
}

TokenResult SampleToken(std::span<const float> logits, const LogitSummary& summary,
                        const SamplingParams& params, const TokenCounts* counts, uint64_t stream,
                        int32_t position, int32_t top_logprobs) {
  TokenResult result;
  if (summary.finite())
    result.token_id =
        SampleAdjusted(logits, summary, params, counts, UniformOf(stream, static_cast<uint32_t>(position)));
  result.logprob = summary.LogProbability(logits[static_cast<size_t>(result.token_id)]);
  result.top_logprobs = TopLogprobs(logits, summary, top_logprobs);
  return result;
}

TokenResult ScoreToken(std::span<const float> logits, const LogitSummary& summary, int32_t token_id,
                       int32_t top_logprobs) {
  ESPALIER_CHECK(token_id >= 0 && static_cast<size_t>(token_id) < logits.size());
  TokenResult result;
  result.token_id = token_id;
  result.logprob = summary.LogProbability(logits[static_cast<size_t>(token_id)]);
  result.top_logprobs = TopLogprobs(logits, summary, top_logprobs);
  return result;
}

int32_t SequenceStore::Resolve(const RowToken& token) const {
  if (token.token_id >= 0) return token.token_id;
  const auto found = last_token_.find(token.sequence_slot);
  ESPALIER_CHECK_MSG(found != last_token_.end(), "a row refers to a sequence slot that has sampled no token");
  return found->second;
}

const TokenCounts* SequenceStore::Counts(int32_t sequence_slot) const {
  const auto found = counts_.find(sequence_slot);
  return found == counts_.end() ? nullptr : &found->second;
}

void SequenceStore::SetHistory(const SequenceHistory& history) {
  counts_[history.sequence_slot] = histories_.Count(history);
}

void SequenceStore::Sampled(int32_t sequence_slot, int32_t token_id, bool uses_history) {
  last_token_[sequence_slot] = token_id;
  if (uses_history) {
    counts_[sequence_slot].AddGenerated(token_id);
  } else {
    counts_.erase(sequence_slot);
  }
}

void SerialFor(int64_t count, const std::function<void(int64_t)>& body) {
  for (int64_t i = 0; i < count; ++i) body(i);
}

void SampleRows(const StepInput& step, const LogitRows& logits, const ParallelFor& parallel,
                SequenceStore* sequences, StepResult* result) {
  std::vector<LogitSummary> summaries(static_cast<size_t>(logits.rows));
  parallel(logits.rows, [&](int64_t i) {
    summaries[static_cast<size_t>(i)] = Summarize(logits.At(logits.first_row + static_cast<int32_t>(i)));
  });
  const auto summary = [&](int32_t index) -> const LogitSummary& {
    return summaries[static_cast<size_t>(index - logits.first_row)];
  };

  result->samples.resize(step.samples.size());
  parallel(static_cast<int64_t>(step.samples.size()), [&](int64_t i) {
    const SampleRequest& request = step.samples[static_cast<size_t>(i)];
    if (!logits.Has(request.logit_index)) return;
    result->samples[static_cast<size_t>(i)] = SampleToken(
        logits.At(request.logit_index), summary(request.logit_index),
        step.params[static_cast<size_t>(request.params)], sequences->Counts(request.sequence_slot),
        request.stream, request.position, request.top_logprobs);
  });
  for (size_t i = 0; i < step.samples.size(); ++i) {
    const SampleRequest& request = step.samples[i];
    if (!logits.Has(request.logit_index)) continue;
    sequences->Sampled(request.sequence_slot, result->samples[i].token_id,
                       step.params[static_cast<size_t>(request.params)].UsesHistory());
  }

  result->scores.resize(step.scores.size());
  parallel(static_cast<int64_t>(step.scores.size()), [&](int64_t i) {
    const ScoreRequest& request = step.scores[static_cast<size_t>(i)];
    if (!logits.Has(request.logit_index)) return;
    result->scores[static_cast<size_t>(i)] = ScoreToken(
        logits.At(request.logit_index), summary(request.logit_index), request.token_id, request.top_logprobs);
  });
  if (!step.return_logits) return;
  for (int32_t row = logits.first_row; row < logits.first_row + logits.rows; ++row) {
    const std::span<const float> values = logits.At(row);
    result->logits.insert(result->logits.end(), values.begin(), values.end());
  }
}

}  // namespace espalier
