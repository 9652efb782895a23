#include "kernels/token_filter.h"

#include <algorithm>
#include <limits>

#include "kernels/base/fast_exp.h"
#include "kernels/base/result.h"

namespace espalier {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
  float weight = 0.0F;  // probability relative to the most likely token
  int32_t id = 0;
};

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}
bool LowerId(const Candidate& a, const Candidate& b) { return a.id < b.id; }

// A lower bound of the count-th largest logit: the count-th largest of the maxima of disjoint blocks.
float LowerBoundOfLargest(std::span<const float> logits, size_t count) {
  constexpr size_t kBlock = 64;
  const size_t blocks = logits.size() / kBlock;
  if (blocks < count * 2) return -kInfinity;
  std::vector<float> maxima(blocks, -kInfinity);
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t i = b * kBlock; i < (b + 1) * kBlock; ++i) {
      if (logits[i] > maxima[b]) maxima[b] = logits[i];
    }
  }
  const auto kth = maxima.begin() + static_cast<std::ptrdiff_t>(count) - 1;
  std::nth_element(maxima.begin(), kth, maxima.end(), std::greater<>());
  return *kth;
}

double SumOf(const std::vector<Candidate>& candidates) {
  double sum = 0.0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

// Keeps the fewest most likely candidates that hold `share` of the whole weight. A first guess at how
// unlikely they get spares sorting all of them.
void KeepTopP(double share, std::vector<Candidate>* candidates) {
  const double needed = share * SumOf(*candidates);
  std::vector<Candidate> likely;
  for (float min = 0x1p-4F;; min *= 0x1p-4F) {
    if (min < 0x1p-30F) min = 0.0F;
    likely.clear();
    for (const Candidate& candidate : *candidates) {
      if (candidate.weight >= min) likely.push_back(candidate);
    }
    if (min == 0.0F || SumOf(likely) >= needed) break;
  }
  std::sort(likely.begin(), likely.end(), MoreLikely);
  double sum = 0.0;
  size_t kept = 0;
  while (kept < likely.size() && (kept == 0 || sum < needed)) sum += likely[kept++].weight;
  likely.resize(kept);
  std::sort(likely.begin(), likely.end(), LowerId);
  *candidates = std::move(likely);
}

int32_t Invert(const std::vector<Candidate>& candidates, double uniform) {
  const double target = uniform * SumOf(candidates);
  double sum = 0.0;
  int32_t last = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight <= 0.0F) continue;
    sum += candidate.weight;
    last = candidate.id;
    if (sum > target) break;
  }
  return last;  // the last possible token where rounding leaves the sum at the target
}

// In order; the sum stays in a register.
double SumOf(std::span<const float> weights) {
  double sum = 0.0;
  for (const float weight : weights) sum += weight;
  return sum;
}

// The same without cuts, when every token is a candidate: sums of blocks first.
int32_t InvertAll(const std::vector<float>& weights, double uniform) {
  constexpr size_t kBlock = 256;
  std::vector<double> sums;
  sums.reserve(weights.size() / kBlock + 1);
  double total = 0.0;
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    sums.push_back(SumOf(std::span(weights).subspan(begin, std::min(kBlock, weights.size() - begin))));
    total += sums.back();
  }
  const double target = uniform * total;
  double before = 0.0;
  size_t last = 0;
  for (size_t block = 0; block < sums.size(); ++block) {
    if (before + sums[block] <= target && block + 1 < sums.size()) {
      before += sums[block];
      continue;
    }
    for (size_t i = block * kBlock; i < std::min(weights.size(), (block + 1) * kBlock); ++i) {
      if (weights[i] <= 0.0F) continue;
      before += weights[i];
      last = i;
      if (before > target) return static_cast<int32_t>(i);
    }
  }
  return static_cast<int32_t>(last);
}

}  // namespace

std::vector<int32_t> LargestLogits(std::span<const float> logits, int32_t count) {
  if (count <= 0) return {};
  const float bound = LowerBoundOfLargest(logits, static_cast<size_t>(count));
  std::vector<int32_t> ids;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= bound) ids.push_back(static_cast<int32_t>(i));
  }
  if (ids.size() <= static_cast<size_t>(count)) return ids;
  const auto larger = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(ids.begin(), ids.begin() + count, ids.end(), larger);
  ids.resize(static_cast<size_t>(count));
  std::sort(ids.begin(), ids.end());
  return ids;
}

int32_t SampleTokenId(std::span<const float> logits, int32_t most_likely, const SamplingParams& params,
                      double uniform) {
  const float inverse = params.InverseTemperature();
  if (inverse == 0.0F) return most_likely;
  // The most likely token has weight 1, whatever `inverse`; the others', where they overflow, 0.
  const float max = logits[static_cast<size_t>(most_likely)];
  const bool cut_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
  std::vector<Candidate> candidates;
  if (cut_k) {
    for (const int32_t id : LargestLogits(logits, params.top_k)) {
      candidates.push_back({ExpNonPositive((logits[static_cast<size_t>(id)] - max) * inverse), id});
    }
  } else {
    std::vector<float> weights(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) weights[i] = ExpNonPositive((logits[i] - max) * inverse);
    if (params.min_p <= 0.0F && params.top_p >= 1.0F) return InvertAll(weights, uniform);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] > 0.0F) candidates.push_back({weights[i], static_cast<int32_t>(i)});
    }
  }
  if (params.min_p > 0.0F) {
    std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.weight < params.min_p; });
  }
  if (params.top_p < 1.0F) KeepTopP(params.top_p, &candidates);
  return candidates.empty() ? most_likely : Invert(candidates, uniform);
}

}  // namespace espalier
