#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// Attention in a window: a row sees the last tokens of its path only.
namespace espalier::test {

namespace {

constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence, AttentionMode::kMasked,
                                    AttentionMode::kNode, AttentionMode::kNodeChunk};
constexpr int32_t kMaxRows = 128;
constexpr int32_t kBlocks = 160;
// Around a block, a segment of 256 and none at all; longer than any path here.
constexpr int32_t kWindows[] = {1, 2, 15, 16, 17, 40, 100, 255, 256, 257, 300, 5000};

AttentionShape Shape(int32_t query_heads, int32_t kv_heads, int32_t head_dim, DType dtype) {
  return {
      .layers = 1, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim, .kv_dtype = dtype};
}

Forest SomeForest(Random& random, int32_t kind) {
  while (true) {
    Forest forest;
    switch (kind % 5) {
      case 0:
        forest = FewShotForest(random, Pick(random, 300, 700), Pick(random, 2, 30), Pick(random, 0, 300));
        break;
      case 1:
        forest = PrefillForest(random, Pick(random, 0, 700), Pick(random, 1, 100));
        break;
      case 2:
        forest = TokenTreeForest(random, Pick(random, 200, 700), Pick(random, 1, 60));
        break;
      case 3:
        forest = FlatForest(random, Pick(random, 1, 6), 700);
        break;
      default:
        forest = MixedForest(random, {3, 3, 3, Pick(random, 1, 20), 20});
    }
    if (forest.batch.rows() > kMaxRows || forest.batch.blocks.size() > kBlocks) continue;
    ScatterBlocks(random, kBlocks, &forest.batch);
    return forest;
  }
}

std::shared_ptr<StepInput> Planned(const TreeBatch& batch, const AttentionShape& shape,
                                   const PlanOptions& options) {
  auto step = MakeStep(batch);
  step->plan = PlanAttention(batch, shape, options);
  return step;
}

// Whole or cut often, high tiles or low ones.
PlanOptions SomeOptions(const Backend& backend, AttentionMode mode, Random& random) {
  PlanOptions options = backend.info().plan;
  options.mode = mode;
  options.processors = Pick(random, 0, 1) == 0 ? 1 : Pick(random, 8, 64);
  if (Pick(random, 0, 2) == 0) options.max_tile_rows = Pick(random, 1, options.max_tile_rows);
  options.chunk_tokens = Pick(random, 10, 300);
  return options;
}

void CompareShape(int32_t query_heads, int32_t kv_heads, int32_t head_dim, uint32_t seed) {
  std::vector<Candidate> candidates = MakeCandidates(kMaxRows);
  const auto ref = MakeRef(kMaxRows);
  AttentionRig ref_rig(*ref, Shape(query_heads, kv_heads, head_dim, DType::kFloat32), kBlocks, 16, kMaxRows);
  ref_rig.Fill(seed);
  std::vector<std::unique_ptr<AttentionRig>> rigs;
  for (Candidate& candidate : candidates) {
    rigs.push_back(std::make_unique<AttentionRig>(
        *candidate.backend, Shape(query_heads, kv_heads, head_dim, candidate.dtype), kBlocks, 16, kMaxRows));
    rigs.back()->Fill(seed);
  }
  Random random(seed);
  int32_t kind = 0;
  for (const int32_t window : kWindows) {
    const Forest forest = SomeForest(random, kind++);
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
    ref_rig.SetWindow(window);
    const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
    for (size_t c = 0; c < candidates.size(); ++c) {
      const AttentionMode mode = kModes[(static_cast<size_t>(kind) + c) % 5];
      rigs[c]->SetWindow(window);
      for (const AttentionMode tried : {AttentionMode::kFlatten, mode}) {
        const auto step =
            Planned(forest.batch, rigs[c]->shape(), SomeOptions(*candidates[c].backend, tried, random));
        const double error = NormalisedError(rigs[c]->Attend(step, qkv), expected);
        INFO(candidates[c].name << " mode " << Name(tried) << " heads " << query_heads << "/" << kv_heads
                                << " dim " << head_dim << " window " << window << ": error " << error);
        REQUIRE(error <= Tolerance(candidates[c].dtype));
      }
    }
  }
}

// The part of a result that is a row's.
std::span<const float> RowOf(const std::vector<float>& values, int32_t row, int64_t cols) {
  return std::span(values).subspan(static_cast<size_t>(row * cols), static_cast<size_t>(cols));
}

}  // namespace

TEST_CASE("Attention in a window agrees with ref") {
  if (SkipWithout(MakeCandidates(1))) return;
  CompareShape(4, 2, 64, 501);
  CompareShape(3, 1, 20, 502);
  CompareShape(8, 8, 32, 503);
}

// The reference itself: what a row sees in a window is what it sees where its path begins there.
TEST_CASE("A window of one token gives the token's own value, one beyond the path changes nothing") {
  const auto ref = MakeRef(kMaxRows);
  const AttentionShape shape = Shape(2, 1, 16, DType::kFloat32);
  AttentionRig rig(*ref, shape, kBlocks, 16, kMaxRows);
  rig.Fill(9);
  Random random(9);
  const Forest forest = SomeForest(random, 2);
  const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * rig.qkv_cols()));
  const std::vector<float> whole = rig.Attend(MakeStep(forest.batch), qkv);
  rig.SetWindow(forest.batch.row_position.back() + 1000);
  CHECK(rig.Attend(MakeStep(forest.batch), qkv) == whole);
  rig.SetWindow(1);
  const std::vector<float> own = rig.Attend(MakeStep(forest.batch), qkv);
  for (int32_t row = 0; row < forest.batch.rows(); ++row) {
    const auto value = RowOf(qkv, row, rig.qkv_cols()).last(16);
    for (int32_t head = 0; head < 2; ++head) {
      const auto out = RowOf(own, row, 32).subspan(static_cast<size_t>(head) * 16, 16);
      REQUIRE(std::equal(value.begin(), value.end(), out.begin()));
    }
  }
}

TEST_CASE("A row's bits in a window depend neither on the cut nor on the tiles") {
  for (Candidate& candidate : MakeCandidates(kMaxRows)) {
    const AttentionShape shape = Shape(4, 2, 32, candidate.dtype);
    AttentionRig rig(*candidate.backend, shape, kBlocks, 16, kMaxRows);
    rig.Fill(77);
    Random random(77);
    for (const int32_t window : {1, 16, 100, 257, 400}) {
      const Forest forest = SomeForest(random, Pick(random, 0, 4));
      const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * rig.qkv_cols()));
      rig.SetWindow(window);
      PlanOptions whole = candidate.backend->info().plan;
      whole.processors = 1;
      const std::vector<float> expected = rig.Attend(Planned(forest.batch, shape, whole), qkv);
      for (int32_t i = 0; i < 4; ++i) {
        const auto options = SomeOptions(*candidate.backend, AttentionMode::kFlatten, random);
        INFO(candidate.name << " window " << window);
        REQUIRE(rig.Attend(Planned(forest.batch, shape, options), qkv) == expected);
      }
    }
  }
}

}  // namespace espalier::test
