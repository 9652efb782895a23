#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// For backends that promise it: the bits of a row's attention do not depend on the plan or on what else is in
// the step.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 256;
constexpr int32_t kBlocks = 256;
constexpr int32_t kBlockTokens[] = {16, 32};

AttentionShape Shape(DType dtype, int32_t head_dim) {
  AttentionShape shape;
  shape.layers = 1;
  shape.query_heads = 6;
  shape.kv_heads = 2;
  shape.head_dim = head_dim;
  shape.kv_dtype = dtype;
  return shape;
}

Forest FittingForest(Random& random, int32_t block_tokens) {
  while (true) {
    Forest forest = Pick(random, 0, 2) == 0
                        ? FewShotForest(random, Pick(random, 100, 600), Pick(random, 2, 60),
                                        Pick(random, 0, 30), block_tokens)
                        : MixedForest(random, {3, 3, 3, Pick(random, 1, 20), 20}, block_tokens);
    if (forest.batch.rows() > kMaxRows || forest.batch.blocks.size() > kBlocks) continue;
    for (size_t i = 0; i < forest.batch.blocks.size(); ++i) {
      forest.batch.blocks[i] = static_cast<int32_t>((i * 37) % kBlocks);
    }
    return forest;
  }
}

// The path of one row as a batch of its own, the tokens before it as cached ones. None where that cannot be
// said: tokens of this step that do not lie as cached ones would (token trees).
std::optional<TreeBatch> Alone(const Forest& forest, int32_t row) {
  const TreeBatch& batch = forest.batch;
  std::vector<int32_t> path = forest.NodesSeenBy(row);
  std::reverse(path.begin(), path.end());
  TreeBatch alone;
  alone.block_tokens = batch.block_tokens;
  int32_t last = -1;
  for (const int32_t index : path) {
    const BatchNode& source = batch.nodes[static_cast<size_t>(index)];
    const bool own = index == path.back();
    const int32_t own_end = own ? row : source.first_row + source.rows;
    for (int32_t r = source.first_row; r < own_end; ++r) {
      if (batch.row_subtree_end[static_cast<size_t>(r)] <= row) return std::nullopt;
    }
    BatchNode node;
    node.parent = last;
    node.begin_position = source.begin_position;
    node.cached_tokens = source.cached_tokens + own_end - source.first_row;
    node.rows = own ? 1 : 0;
    node.subtree_end_row = 1;
    if (node.cached_tokens > 0 && node.begin_position % batch.block_tokens != 0) return std::nullopt;
    node.first_block = static_cast<int32_t>(alone.blocks.size());
    const int32_t blocks = (node.cached_tokens + node.rows + batch.block_tokens - 1) / batch.block_tokens;
    const auto begin = batch.blocks.begin() + source.first_block;
    alone.blocks.insert(alone.blocks.end(), begin, begin + blocks);
    last = static_cast<int32_t>(alone.nodes.size());
    alone.nodes.push_back(node);
  }
  alone.row_node = {last};
  alone.row_position = {batch.row_position[static_cast<size_t>(row)]};
  alone.row_subtree_end = {1};
  return alone;
}

std::vector<float> Attend(AttentionRig& rig, const TreeBatch& batch, const PlanOptions& options,
                          std::span<const float> qkv) {
  auto step = MakeStep(batch);
  step->plan = PlanAttention(batch, rig.shape(), options);
  return rig.Attend(step, qkv);
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void CheckPlans(Candidate& candidate, int32_t head_dim, int32_t block_tokens) {
  AttentionRig rig(*candidate.backend, Shape(candidate.dtype, head_dim), kBlocks, block_tokens, kMaxRows);
  rig.Fill(31);
  for (uint32_t seed = 0; seed < 8; ++seed) {
    Random random(seed);
    const Forest forest = FittingForest(random, block_tokens);
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * rig.qkv_cols()));
    PlanOptions options = candidate.backend->info().plan;
    const std::vector<float> expected = Attend(rig, forest.batch, options, qkv);
    INFO(candidate.name << " dim " << head_dim << " blocks of " << block_tokens << " seed " << seed);
    options.processors = 64;
    REQUIRE(SameBits(Attend(rig, forest.batch, options, qkv), expected));
    options.max_tile_rows = 3;
    REQUIRE(SameBits(Attend(rig, forest.batch, options, qkv), expected));
    options.mode = AttentionMode::kSequence;
    REQUIRE(SameBits(Attend(rig, forest.batch, options, qkv), expected));
    options.processors = 1;
    REQUIRE(SameBits(Attend(rig, forest.batch, options, qkv), expected));
  }
}

// Returns how many rows were compared.
int32_t CheckAlone(Candidate& candidate, int32_t head_dim, int32_t block_tokens) {
  AttentionRig rig(*candidate.backend, Shape(candidate.dtype, head_dim), kBlocks, block_tokens, kMaxRows);
  rig.Fill(32);
  int32_t compared = 0;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    Random random(seed);
    const Forest forest = FittingForest(random, block_tokens);
    const auto cols = static_cast<size_t>(rig.qkv_cols());
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows()) * cols);
    const PlanOptions options = candidate.backend->info().plan;
    const std::vector<float> all = Attend(rig, forest.batch, options, qkv);
    const size_t out_cols = all.size() / static_cast<size_t>(forest.batch.rows());
    for (int32_t row = 0; row < forest.batch.rows(); row += Pick(random, 1, 6)) {
      const std::optional<TreeBatch> alone = Alone(forest, row);
      if (!alone) continue;
      REQUIRE(ValidateBatch(*alone).ok());
      const auto r = static_cast<size_t>(row);
      const std::vector<float> one =
          Attend(rig, *alone, options, std::span<const float>(qkv).subspan(r * cols, cols));
      INFO(candidate.name << " dim " << head_dim << " blocks of " << block_tokens << " seed " << seed
                          << " row " << row);
      REQUIRE(SameBits(one, std::span<const float>(all).subspan(r * out_cols, out_cols)));
      ++compared;
    }
  }
  return compared;
}

}  // namespace

TEST_CASE("A row's attention has the same bits under flatten and sequence, cut or not, low tiles or high") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (Candidate& candidate : candidates) {
    for (const int32_t block_tokens : kBlockTokens) CheckPlans(candidate, 64, block_tokens);
    CheckPlans(candidate, 36, 16);
  }
}

TEST_CASE("A row's attention has the same bits alone and in a batch") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (Candidate& candidate : candidates) {
    for (const int32_t block_tokens : kBlockTokens) REQUIRE(CheckAlone(candidate, 64, block_tokens) > 20);
    REQUIRE(CheckAlone(candidate, 36, 16) > 20);
  }
}

}  // namespace espalier::test
