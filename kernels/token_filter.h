#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/step_input.h"

namespace espalier {

// The ids of the `count` largest logits in ascending order, ties to the lower id. NaN is never among them.
std::vector<int32_t> LargestLogits(std::span<const float> logits, int32_t count);

// Samples from softmax(logits / temperature) after the cuts top_k, min_p and top_p, in this order; `uniform`
// in [0, 1) chooses in ascending token id. `most_likely`: the lowest id of the largest logit, which is
// finite; no logit is NaN. It is the answer where sampling is greedy.
int32_t SampleTokenId(std::span<const float> logits, int32_t most_likely, const SamplingParams& params,
                      double uniform);

}  // namespace espalier
