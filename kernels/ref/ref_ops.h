#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "kernels/plan/tree_batch.h"

namespace espalier::ref {

// The dot product of two vectors of equal length, in a fixed order of additions.
float Dot(const float* a, const float* b, int64_t count);

// One layer's keys and values of a pool: [blocks * block_tokens, kv_heads, head_dim].
struct KvLayer {
  std::vector<float> keys;
  std::vector<float> values;
};

// Where the KV that a row sees lies, by ascending position: block * block_tokens + slot. Walks the row's own
// path from its node to the root.
std::vector<int64_t> PathKvSlots(const TreeBatch& batch, int32_t row);

// out = in / sqrt(mean(in^2) + epsilon) * weight, all as long as weight; out may be in.
void NormRow(const float* in, std::span<const float> weight, float epsilon, float* out);

// Turns the pairs (i, i + head_dim / 2) of one head by the angles of a position: Su et al., "RoFormer", 2021,
// section 3.2.2, in the half-split form that Llama uses. cosine, sine: [head_dim / 2].
void RotateHead(std::span<float> head, std::span<const float> cosine, std::span<const float> sine);

// out [query_heads, head_dim] = attention of one row's queries [query_heads, head_dim] over the KV in
// `slots`.
void AttendRow(const AttentionShape& shape, const KvLayer& kv, std::span<const int64_t> slots,
               const float* queries, float* out);

}  // namespace espalier::ref
