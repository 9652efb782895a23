#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref_ops.h"
#include "tests/kernels/forest.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

// The KV slots of a row's path from the forest's own links, without intervals.
std::vector<int64_t> KvSlotsByLinks(const Forest& forest, int32_t row) {
  const TreeBatch& batch = forest.batch;
  std::vector<int64_t> slots(static_cast<size_t>(batch.row_position[static_cast<size_t>(row)]) + 1, -1);
  for (const int32_t own : forest.RowsSeenBy(row)) {
    slots[static_cast<size_t>(batch.row_position[static_cast<size_t>(own)])] = batch.KvSlotOfRow(own);
  }
  for (const int32_t index : forest.NodesSeenBy(row)) {
    const BatchNode& node = batch.nodes[static_cast<size_t>(index)];
    for (int32_t token = 0; token < node.cached_tokens; ++token) {
      const int64_t block = batch.blocks[static_cast<size_t>(node.first_block + token / batch.block_tokens)];
      slots[static_cast<size_t>(node.begin_position + token)] =
          block * batch.block_tokens + token % batch.block_tokens;
    }
  }
  return slots;
}

}  // namespace

TEST_CASE("The reference walks exactly the path that the tree's links give") {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    Random random(seed);
    const Forest forest = MixedForest(random, {});
    INFO("seed " << seed);
    for (int32_t row = 0; row < forest.batch.rows(); ++row) {
      REQUIRE(ref::PathKvSlots(forest.batch, row) == KvSlotsByLinks(forest, row));
    }
  }
}

TEST_CASE("The reference's norm divides by the root of the mean square") {
  Random random(8);
  std::normal_distribution<float> normal;
  for (const size_t count : {size_t{1}, size_t{10}, size_t{64}, size_t{100}}) {
    std::vector<float> in(count);
    std::vector<float> weight(count);
    for (float& value : in) value = 0.01F * normal(random);
    for (float& value : weight) value = normal(random);
    double squares = 0.0;
    for (const float value : in) squares += static_cast<double>(value) * value;
    std::vector<float> out(in);
    ref::NormRow(out.data(), weight, 1e-4F, out.data());
    for (size_t i = 0; i < count; ++i) {
      const double expected =
          in[i] * static_cast<double>(weight[i]) / std::sqrt(squares / static_cast<double>(count) + 1e-4);
      REQUIRE(std::abs(out[i] - expected) < 1e-6);
    }
  }
}

TEST_CASE("The reference's attention is a softmax-weighted mean of values") {
  AttentionShape shape;
  shape.layers = 1;
  shape.query_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 6;
  constexpr int32_t kSlots = 30;
  Random random(4);
  std::normal_distribution<float> normal;
  ref::KvLayer kv;
  for (int32_t i = 0; i < kSlots * 2 * 6; ++i) {
    kv.keys.push_back(normal(random));
    kv.values.push_back(normal(random));
  }
  std::vector<float> queries(4 * 6);
  for (float& query : queries) query = normal(random);
  const std::vector<int64_t> slots = {7, 3, 29, 0, 12};
  std::vector<float> out(queries.size());
  ref::AttendRow(shape, kv, slots, queries.data(), out.data());
  for (size_t head = 0; head < 4; ++head) {
    const auto at = [&](int64_t slot, size_t d) {
      return (static_cast<size_t>(slot) * 2 + head / 2) * 6 + d;
    };
    std::vector<double> mean(6, 0.0);
    double total = 0.0;
    for (const int64_t slot : slots) {
      double score = 0.0;
      for (size_t d = 0; d < 6; ++d)
        score += static_cast<double>(queries[head * 6 + d]) * kv.keys[at(slot, d)];
      const double weight = std::exp(score / std::sqrt(6.0));
      total += weight;
      for (size_t d = 0; d < 6; ++d) mean[d] += weight * kv.values[at(slot, d)];
    }
    for (size_t d = 0; d < 6; ++d) {
      REQUIRE(std::abs(out[head * 6 + d] - mean[d] / total) < 1e-6);
    }
  }
}

TEST_CASE("Rotation keeps lengths and turns pairs by the angle of their position") {
  std::vector<float> head = {1.0F, 0.0F, 0.0F, 2.0F};
  const std::vector<float> cosine = {0.0F, 0.6F};
  const std::vector<float> sine = {1.0F, 0.8F};
  ref::RotateHead(head, cosine, sine);
  const std::vector<float> expected = {0.0F, -1.6F, 1.0F, 1.2F};
  for (size_t i = 0; i < 4; ++i) REQUIRE(std::abs(head[i] - expected[i]) < 1e-6F);
}

}  // namespace espalier::test
