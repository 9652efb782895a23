#include "kernels/ref/ref_ops.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace espalier::ref {

float Dot(const float* a, const float* b, int64_t count) {
  // Eight sums side by side let the compiler use vector registers without changing the order of additions.
  constexpr int64_t kLanes = 8;
  std::array<float, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      sums[static_cast<size_t>(lane)] += a[i + lane] * b[i + lane];
  }
  float rest = 0.0F;
  for (; i < count; ++i) rest += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7])) + rest;
}

std::vector<int64_t> PathKvSlots(const TreeBatch& batch, int32_t row) {
  std::vector<int64_t> slots;
  for (int32_t i = batch.row_node[static_cast<size_t>(row)]; i >= 0;) {
    const BatchNode& node = batch.nodes[static_cast<size_t>(i)];
    // From the last token up, so that one reversal puts the whole path in order.
    for (int32_t own = std::min(row, node.first_row + node.rows - 1); own >= node.first_row; --own) {
      if (batch.row_subtree_end[static_cast<size_t>(own)] > row) slots.push_back(batch.KvSlotOfRow(own));
    }
    for (int32_t token = node.cached_tokens - 1; token >= 0; --token) {
      const int64_t block = batch.blocks[static_cast<size_t>(node.first_block + token / batch.block_tokens)];
      slots.push_back(block * batch.block_tokens + token % batch.block_tokens);
    }
    i = node.parent;
  }
  std::reverse(slots.begin(), slots.end());
  return slots;
}

void NormRow(const float* in, std::span<const float> weight, float epsilon, float* out) {
  const auto count = static_cast<int64_t>(weight.size());
  const float mean = Dot(in, in, count) / static_cast<float>(count);
  const float factor = 1.0F / std::sqrt(mean + epsilon);
  for (size_t i = 0; i < weight.size(); ++i) out[i] = in[i] * factor * weight[i];
}

void RotateHead(std::span<float> head, std::span<const float> cosine, std::span<const float> sine) {
  const size_t half = head.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const float x = head[i];
    const float y = head[i + half];
    head[i] = x * cosine[i] - y * sine[i];
    head[i + half] = y * cosine[i] + x * sine[i];
  }
}

void AttendRow(const AttentionShape& shape, const KvLayer& kv, std::span<const int64_t> slots,
               const float* queries, float* out) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  std::vector<float> weights(slots.size());
  for (int32_t head = 0; head < shape.query_heads; ++head) {
    const int64_t kv_head = head / shape.group();
    const auto at = [&](int64_t slot) { return (slot * shape.kv_heads + kv_head) * shape.head_dim; };
    const float* query = queries + int64_t{head} * shape.head_dim;
    for (size_t t = 0; t < slots.size(); ++t) {
      weights[t] = Dot(query, kv.keys.data() + at(slots[t]), shape.head_dim) * scale;
    }
    const float max = *std::max_element(weights.begin(), weights.end());
    float sum = 0.0F;
    for (float& weight : weights) {
      weight = std::exp(weight - max);
      sum += weight;
    }
    float* result = out + int64_t{head} * shape.head_dim;
    std::fill(result, result + shape.head_dim, 0.0F);
    for (size_t t = 0; t < slots.size(); ++t) {
      const float* value = kv.values.data() + at(slots[t]);
      for (int32_t d = 0; d < shape.head_dim; ++d) result[d] += weights[t] * value[d];
    }
    for (int32_t d = 0; d < shape.head_dim; ++d) result[d] /= sum;
  }
}

}  // namespace espalier::ref
