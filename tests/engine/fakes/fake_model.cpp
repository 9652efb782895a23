#include "tests/engine/fakes/fake_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace espalier::test {
namespace {

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93U;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93U;
  return x ^ (x >> 32);
}
double Unit(uint64_t x) { return static_cast<double>(x >> 11) * 0x1.0p-53; }

double LogSumExp(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return top + std::log(sum);
}

std::vector<TokenLogprob> Top(const std::vector<float>& logits, double log_sum, int32_t count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto middle = ids.begin() + std::min<int64_t>(count, static_cast<int64_t>(ids.size()));
  const auto value = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::partial_sort(ids.begin(), middle, ids.end(),
                    [&](int32_t a, int32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
  std::vector<TokenLogprob> top;
  for (auto id = ids.begin(); id != middle; ++id) {
    top.push_back({*id, static_cast<float>(static_cast<double>(value(*id)) - log_sum)});
  }
  return top;
}

// Bias and penalties as SamplingParams describes them.
std::vector<float> Adjust(std::vector<float> logits, const SamplingParams& params,
                          const FakeHistory& history) {
  for (const auto& [token_id, bias] : params.logit_bias) logits[static_cast<size_t>(token_id)] += bias;
  if (!params.UsesHistory()) return logits;
  std::vector<bool> seen(logits.size());
  for (const auto* tokens : {&history.prompt_tokens, &history.generated_tokens}) {
    for (const int32_t token : *tokens) {
      float& logit = logits[static_cast<size_t>(token)];
      if (!seen[static_cast<size_t>(token)]) {
        logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
      seen[static_cast<size_t>(token)] = true;
    }
  }
  std::vector<int32_t> counts(logits.size());
  for (const int32_t token : history.generated_tokens) ++counts[static_cast<size_t>(token)];
  for (size_t i = 0; i < logits.size(); ++i) {
    if (counts[i] == 0) continue;
    logits[i] -= params.presence_penalty + params.frequency_penalty * static_cast<float>(counts[i]);
  }
  return logits;
}

// One number for the cuts, which this model does not apply: they turn the random number instead.
uint64_t CutsKey(const SamplingParams& params) {
  uint64_t key = static_cast<uint64_t>(params.top_k);
  key = Mix(key + std::bit_cast<uint32_t>(params.top_p));
  return Mix(key + std::bit_cast<uint32_t>(params.min_p));
}

}  // namespace

uint64_t FakeModel::Extend(uint64_t state, int32_t position, int32_t token_id) {
  return Mix(state * 0x9E3779B97F4A7C15U + (static_cast<uint64_t>(position) << 32) +
             static_cast<uint64_t>(token_id) + 1);
}

uint64_t FakeModel::StateOf(std::span<const int32_t> token_ids) {
  uint64_t state = 0;
  for (size_t i = 0; i < token_ids.size(); ++i) state = Extend(state, static_cast<int32_t>(i), token_ids[i]);
  return state;
}

std::vector<float> FakeModel::Logits(uint64_t state) const {
  std::vector<float> logits(static_cast<size_t>(options_.vocab_size));
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(6.0 * Unit(Mix(state + (i + 1) * 0xA0761D6478BD642FU)) - 3.0);
  }
  for (const int32_t eos : options_.eos_token_ids) {
    const bool end = Unit(Mix(state ^ static_cast<uint64_t>(eos + 77))) < options_.eos_probability;
    logits[static_cast<size_t>(eos)] = end ? 12.0F : -12.0F;
  }
  if (Unit(Mix(state ^ 0x5851F42D4C957F2DU)) < options_.error_probability)
    logits[0] = std::numeric_limits<float>::quiet_NaN();
  return logits;
}

TokenResult FakeModel::Sample(const std::vector<float>& logits, const SamplingParams& params,
                              const FakeHistory& history, uint64_t stream, int32_t position,
                              int32_t top_logprobs) const {
  if (std::isnan(logits[0])) return Score(logits, 0, top_logprobs);
  const std::vector<float> adjusted = Adjust(logits, params, history);
  size_t sampled = 0;
  if (params.temperature == 0.0F) {
    sampled = static_cast<size_t>(std::max_element(adjusted.begin(), adjusted.end()) - adjusted.begin());
  } else {
    const double top = *std::max_element(adjusted.begin(), adjusted.end());
    const auto weight = [&](size_t i) {
      return std::exp((static_cast<double>(adjusted[i]) - top) / static_cast<double>(params.temperature));
    };
    double sum = 0.0;
    for (size_t i = 0; i < adjusted.size(); ++i) sum += weight(i);
    double left =
        sum *
        Unit(Mix(Mix(stream + CutsKey(params)) + static_cast<uint64_t>(position) * 0xE7037ED1A0B428DBU));
    for (; sampled + 1 < adjusted.size(); ++sampled) {
      left -= weight(sampled);
      if (left < 0) break;
    }
  }
  return Score(logits, static_cast<int32_t>(sampled), top_logprobs);
}

TokenResult FakeModel::Score(const std::vector<float>& logits, int32_t token_id, int32_t top_logprobs) const {
  TokenResult result;
  result.token_id = token_id;
  if (std::isnan(logits[0])) {
    result.logprob = logits[0];
    return result;
  }
  const double log_sum = LogSumExp(logits);
  result.logprob = static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token_id)]) - log_sum);
  if (top_logprobs > 0) result.top_logprobs = Top(logits, log_sum, top_logprobs);
  return result;
}

}  // namespace espalier::test
