#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence, AttentionMode::kMasked,
                                    AttentionMode::kNode, AttentionMode::kNodeChunk};
constexpr int32_t kMaxRows = 256;
constexpr int32_t kBlocks = 160;

struct Heads {
  int32_t query;
  int32_t kv;
};
// GQA groups of 1, 3, 4 and 8, and multi-query attention.
constexpr Heads kHeads[] = {{2, 2}, {6, 2}, {8, 2}, {8, 1}, {5, 1}};

AttentionShape Shape(Heads heads, int32_t head_dim, DType dtype) {
  AttentionShape shape;
  shape.layers = 1;
  shape.query_heads = heads.query;
  shape.kv_heads = heads.kv;
  shape.head_dim = head_dim;
  shape.kv_dtype = dtype;
  return shape;
}

// Block ids are chosen from the whole pool, so that every layout is fragmented.
Forest Refill(Forest forest, Random& random) {
  REQUIRE(forest.batch.blocks.size() <= size_t{kBlocks});
  ScatterBlocks(random, kBlocks, &forest.batch);
  return forest;
}

bool Fits(const Forest& forest) {
  return forest.batch.rows() <= kMaxRows && forest.batch.blocks.size() <= kBlocks;
}

Forest SomeForest(Random& random, int32_t kind) {
  switch (kind % 8) {
    case 0:
      return FewShotForest(random, Pick(random, 100, 700), Pick(random, 2, 30), Pick(random, 0, 30));
    case 1:
      return FlatForest(random, Pick(random, 1, 6), 400);
    case 2:
      return DeepForest(random, Pick(random, 2, 30), 16 * Pick(random, 1, 2));
    case 3:
      return PrefillForest(random, Pick(random, 0, 300), Pick(random, 1, 100));
    case 4:
      return TokenTreeForest(random, Pick(random, 200, 520), Pick(random, 1, 60));
    default:
      while (true) {
        Forest forest = MixedForest(random, {3, 3, 3, Pick(random, 1, 20), 20});
        if (Fits(forest)) return forest;
      }
  }
}

std::shared_ptr<StepInput> Planned(const TreeBatch& batch, const AttentionShape& shape,
                                   const PlanOptions& options) {
  auto step = MakeStep(batch);
  step->plan = PlanAttention(batch, shape, options);
  const Status status = CheckPlan(batch, step->plan, options);
  REQUIRE(status.ok());
  return step;
}

PlanOptions OptionsOf(const Backend& backend, AttentionMode mode, Random& random) {
  PlanOptions options = backend.info().plan;
  options.mode = mode;
  // Sometimes so many that KV has to be cut, sometimes low tiles.
  if (Pick(random, 0, 1) == 0) options.processors = Pick(random, 8, 64);
  if (Pick(random, 0, 3) == 0) options.max_tile_rows = Pick(random, 1, options.max_tile_rows);
  options.chunk_tokens = Pick(random, 10, 300);
  return options;
}

// Runs forests of every kind over one shape, and all candidates against one result of ref.
void CompareShape(Heads heads, int32_t head_dim, int32_t forests, bool every_mode, uint32_t seed) {
  std::vector<Candidate> candidates = MakeCandidates(kMaxRows);
  const auto ref = MakeRef(kMaxRows);
  AttentionRig ref_rig(*ref, Shape(heads, head_dim, DType::kFloat32), kBlocks, 16, kMaxRows);
  ref_rig.Fill(seed);
  std::vector<std::unique_ptr<AttentionRig>> rigs;
  for (Candidate& candidate : candidates) {
    rigs.push_back(std::make_unique<AttentionRig>(*candidate.backend, Shape(heads, head_dim, candidate.dtype),
                                                  kBlocks, 16, kMaxRows));
    rigs.back()->Fill(seed);
  }
  Random random(seed);
  for (int32_t f = 0; f < forests; ++f) {
    const Forest forest = Refill(SomeForest(random, f + static_cast<int32_t>(seed)), random);
    REQUIRE(ValidateBatch(forest.batch).ok());
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
    const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
    for (size_t c = 0; c < candidates.size(); ++c) {
      for (const AttentionMode mode : kModes) {
        if (!every_mode && mode != kModes[(static_cast<size_t>(f) + c) % 5] &&
            mode != AttentionMode::kFlatten)
          continue;
        const AttentionShape shape = Shape(heads, head_dim, candidates[c].dtype);
        const PlanOptions options = OptionsOf(*candidates[c].backend, mode, random);
        const double error =
            NormalisedError(rigs[c]->Attend(Planned(forest.batch, shape, options), qkv), expected);
        INFO(candidates[c].name << " mode " << Name(mode) << " heads " << heads.query << "/" << heads.kv
                                << " dim " << head_dim << " seed " << seed << " forest " << f << ": error "
                                << error);
        REQUIRE(error <= Tolerance(candidates[c].dtype));
      }
    }
  }
}

}  // namespace

TEST_CASE("Attention agrees with ref for every head size and GQA ratio") {
  if (SkipWithout(MakeCandidates(1))) return;
  uint32_t seed = 100;
  for (const int32_t head_dim : {32, 64, 80, 96, 128, 256}) {
    for (const Heads heads : kHeads) CompareShape(heads, head_dim, 2, false, seed++);
  }
}

// Widths that no vector divides: OpenLLaMA-3B has heads of 100, stories260K of 8.
TEST_CASE("Attention agrees with ref for heads of every even width") {
  if (SkipWithout(MakeCandidates(1))) return;
  uint32_t seed = 300;
  for (const int32_t head_dim : {2, 8, 10, 20, 36, 72, 100, 130}) {
    CompareShape(kHeads[seed % 5], head_dim, 3, false, seed);
    ++seed;
  }
}

TEST_CASE("Attention agrees with ref in every mode on random forests") {
  if (SkipWithout(MakeCandidates(1))) return;
  CompareShape({4, 2}, 64, 24, true, 1);
  CompareShape({3, 1}, 32, 24, true, 2);
}

TEST_CASE("Attention agrees with ref when scores are large") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  const auto ref = MakeRef(kMaxRows);
  AttentionRig ref_rig(*ref, Shape({4, 2}, 64, DType::kFloat32), kBlocks, 16, kMaxRows);
  ref_rig.Fill(5);
  Random random(5);
  const Forest forest = Refill(FewShotForest(random, 600, 10, 5), random);
  auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
  for (float& value : qkv) value *= 16.0F;
  const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
  for (Candidate& candidate : candidates) {
    const AttentionShape shape = Shape({4, 2}, 64, candidate.dtype);
    AttentionRig rig(*candidate.backend, shape, kBlocks, 16, kMaxRows);
    rig.Fill(5);
    const PlanOptions options = candidate.backend->info().plan;
    const double error = NormalisedError(rig.Attend(Planned(forest.batch, shape, options), qkv), expected);
    INFO(candidate.name << ": error " << error);
    // The softmax is steep: rounding a score of 100 to bf16 operands shifts its weight by more than a
    // rounding.
    REQUIRE(error <= 8 * Tolerance(candidate.dtype));
  }
}

TEST_CASE("Prefill, decode and token-tree rows of three requests are one plan and one attention call") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  Random random(9);
  // Request one: a prompt's second chunk. Two: three branches under a shared prompt. Three: a draft verified.
  ForestBuilder builder;
  builder.Open(240);
  builder.Chain(50);
  builder.Close();
  builder.Open(320);
  for (const int32_t own_tokens : {3, 17, 30}) {
    builder.Open(own_tokens);
    builder.Chain(1);
    builder.Close();
  }
  builder.Close();
  builder.Open(254);
  builder.Chain(1);
  builder.Open(0);
  builder.Tree({-1, 0, 1, 1, 0, 4, -1, 6});
  builder.Close();
  builder.Close();
  const Forest forest = Refill(builder.Finish(random), random);
  REQUIRE(ValidateBatch(forest.batch).ok());
  REQUIRE(forest.batch.rows() == 50 + 3 + 9);

  const auto ref = MakeRef(kMaxRows);
  AttentionRig ref_rig(*ref, Shape({8, 2}, 64, DType::kFloat32), kBlocks, 16, kMaxRows);
  ref_rig.Fill(9);
  const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
  const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
  for (Candidate& candidate : candidates) {
    const AttentionShape shape = Shape({8, 2}, 64, candidate.dtype);
    AttentionRig rig(*candidate.backend, shape, kBlocks, 16, kMaxRows);
    rig.Fill(9);
    const auto step = Planned(forest.batch, shape, candidate.backend->info().plan);
    const double error = NormalisedError(rig.Attend(step, qkv), expected);
    INFO(candidate.name << ": error " << error);
    REQUIRE(error <= Tolerance(candidate.dtype));
  }
}

TEST_CASE("A thousand branches under one prompt agree with ref") {
  constexpr int32_t kRows = 1024;
  auto candidates = MakeCandidates(kRows);
  if (SkipWithout(candidates)) return;
  const auto ref = MakeRef(kRows);
  AttentionRig ref_rig(*ref, Shape({2, 1}, 32, DType::kFloat32), kRows + 64, 16, kRows);
  ref_rig.Fill(12);
  Random random(12);
  Forest forest = FewShotForest(random, 300, kRows, 0);
  for (size_t i = 0; i < forest.batch.blocks.size(); ++i) forest.batch.blocks[i] = static_cast<int32_t>(i);
  const auto qkv = RandomValues(random, static_cast<size_t>(kRows * ref_rig.qkv_cols()));
  const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
  for (Candidate& candidate : candidates) {
    const AttentionShape shape = Shape({2, 1}, 32, candidate.dtype);
    AttentionRig rig(*candidate.backend, shape, kRows + 64, 16, kRows);
    rig.Fill(12);
    const auto step = Planned(forest.batch, shape, candidate.backend->info().plan);
    const double error = NormalisedError(rig.Attend(step, qkv), expected);
    INFO(candidate.name << ": error " << error);
    REQUIRE(error <= Tolerance(candidate.dtype));
  }
}

TEST_CASE("Blocks of every size agree with ref") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (const int32_t block_tokens : {8, 32, 64}) {
    const auto ref = MakeRef(kMaxRows);
    const int32_t blocks = 4096 / block_tokens;
    AttentionRig ref_rig(*ref, Shape({4, 2}, 32, DType::kFloat32), blocks, block_tokens, kMaxRows);
    ref_rig.Fill(3);
    Random random(static_cast<uint32_t>(block_tokens));
    Forest forest = MixedForest(random, {2, 2, 3, 256 / block_tokens, 30}, block_tokens);
    while (forest.batch.rows() > kMaxRows || forest.batch.blocks.size() > static_cast<size_t>(blocks)) {
      forest = MixedForest(random, {2, 2, 3, 256 / block_tokens, 30}, block_tokens);
    }
    for (size_t i = 0; i < forest.batch.blocks.size(); ++i) forest.batch.blocks[i] = static_cast<int32_t>(i);
    const auto qkv = RandomValues(random, static_cast<size_t>(forest.batch.rows() * ref_rig.qkv_cols()));
    const std::vector<float> expected = ref_rig.Attend(MakeStep(forest.batch), qkv);
    for (Candidate& candidate : candidates) {
      const AttentionShape shape = Shape({4, 2}, 32, candidate.dtype);
      AttentionRig rig(*candidate.backend, shape, blocks, block_tokens, kMaxRows);
      rig.Fill(3);
      const auto step = Planned(forest.batch, shape, candidate.backend->info().plan);
      const double error = NormalisedError(rig.Attend(step, qkv), expected);
      INFO(candidate.name << " block of " << block_tokens << ": error " << error);
      REQUIRE(error <= Tolerance(candidate.dtype));
    }
  }
}

}  // namespace espalier::test
