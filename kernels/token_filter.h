#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/step_input.h"

namespace espalier {

// The ids of the `count` largest logits in ascending order, ties to the lower id. NaN is never among them.
std::vector<int32_t> LargestLogits(std::span<const float> logits, int32_t count);

// Draws from softmax(logits / temperature) after the cuts top_k, min_p and top_p, in this order; `uniform` in
// [0, 1) chooses in ascending token id. `max`: the largest logit, finite. Precondition: temperature > 0.
int32_t DrawToken(std::span<const float> logits, float max, const SamplingParams& params, double uniform);

}  // namespace espalier
