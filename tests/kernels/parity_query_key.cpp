#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// What becomes of queries and keys between their projection and attention: norms of each head, rotation, none
// of them, and every combination.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 128;
constexpr int32_t kBlocks = 64;
constexpr float kEpsilon = 1e-3F;  // large enough to show where it is left out

struct Spec {
  bool turned;
  bool query_norm;
  bool key_norm;
};
constexpr Spec kSpecs[] = {
    {true, true, true}, {false, true, true}, {false, false, false}, {true, true, false}, {true, false, true}};

std::string Name(const Spec& spec) {
  return std::string(spec.turned ? "turned" : "not turned") + (spec.query_norm ? ", norm of Q" : "") +
         (spec.key_norm ? ", norm of K" : "");
}

struct NormWeights {
  std::vector<float> query;
  std::vector<float> key;
};

void Apply(const Spec& spec, const NormWeights& norms, Backend& backend, AttentionRig* rig) {
  QueryKeySpec& target = rig->spec();
  if (!spec.turned) target.rotary = RotaryId::kNone;
  if (spec.query_norm) target.query_norm = AddVector(backend, norms.query);
  if (spec.key_norm) target.key_norm = AddVector(backend, norms.key);
  target.epsilon = kEpsilon;
}

AttentionShape Shape(int32_t query_heads, int32_t kv_heads, int32_t head_dim, DType dtype) {
  return {
      .layers = 1, .query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim, .kv_dtype = dtype};
}

// Rows of very different size, so that a norm of the wrong head, or of two together, shows.
std::vector<float> HeadsOfManySizes(Random& random, int32_t rows, const AttentionShape& shape) {
  std::vector<float> values;
  const int32_t heads = rows * (shape.query_heads + 2 * shape.kv_heads);
  for (int32_t head = 0; head < heads; ++head) {
    const float spread = std::exp2(static_cast<float>(Pick(random, -6, 3)));
    const auto some = RandomValues(random, static_cast<size_t>(shape.head_dim), spread);
    values.insert(values.end(), some.begin(), some.end());
  }
  return values;
}

AttentionRig::Attended Run(Backend& backend, const AttentionShape& shape, const Spec& spec,
                           const NormWeights& norms, const TreeBatch& batch, std::span<const float> qkv) {
  AttentionRig rig(backend, shape, kBlocks, 16, kMaxRows);
  rig.Fill(11);
  Apply(spec, norms, backend, &rig);
  auto step = MakeStep(batch);
  step->plan = PlanAttention(batch, shape, backend.info().plan);
  return rig.AttendAndTurn(step, qkv);
}

void CompareSpec(const Spec& spec, const AttentionShape& shape, Random& random) {
  const NormWeights norms{RandomValues(random, static_cast<size_t>(shape.head_dim)),
                          RandomValues(random, static_cast<size_t>(shape.head_dim))};
  const TreeBatch batch = TokenTreeForest(random, Pick(random, 0, 300), Pick(random, 1, 50)).batch;
  const auto qkv = HeadsOfManySizes(random, batch.rows(), shape);
  const auto ref = MakeRef(kMaxRows);
  const auto expected = Run(*ref, shape, spec, norms, batch, qkv);
  for (Candidate& candidate : MakeCandidates(kMaxRows)) {
    AttentionShape own = shape;
    own.kv_dtype = candidate.dtype;
    const auto actual = Run(*candidate.backend, own, spec, norms, batch, qkv);
    INFO(candidate.name << " heads " << shape.query_heads << "/" << shape.kv_heads << " dim "
                        << shape.head_dim << " " << Name(spec));
    // Q and K stay fp32 where they are prepared, whatever KV is kept in.
    REQUIRE(NormalisedError(actual.qkv, expected.qkv) <= Tolerance(DType::kFloat32));
    REQUIRE(NormalisedError(actual.attention, expected.attention) <= 2 * Tolerance(candidate.dtype));
  }
}

}  // namespace

TEST_CASE("Norms and rotation of queries and keys agree with ref") {
  if (SkipWithout(MakeCandidates(1))) return;
  Random random(31);
  for (const int32_t head_dim : {2, 10, 16, 64, 100, 128}) {
    for (const Spec& spec : kSpecs) CompareSpec(spec, Shape(6, 2, head_dim, DType::kFloat32), random);
  }
  // More heads than a block of threads has sums for at first.
  CompareSpec(kSpecs[0], Shape(70, 35, 8, DType::kFloat32), random);
  CompareSpec(kSpecs[0], Shape(1200, 1, 4, DType::kFloat32), random);
}

TEST_CASE("Heads of zeros stay zeros where they are normalised") {
  if (SkipWithout(MakeCandidates(1))) return;
  const AttentionShape shape = Shape(2, 1, 20, DType::kFloat32);
  const NormWeights norms{std::vector<float>(20, 2.0F), std::vector<float>(20, 3.0F)};
  for (Candidate& candidate : MakeCandidates(kMaxRows)) {
    AttentionShape own = shape;
    own.kv_dtype = candidate.dtype;
    const auto result = Run(*candidate.backend, own, kSpecs[0], norms, RowsOnly(3),
                            std::vector<float>(static_cast<size_t>(3 * 4 * 20), 0.0F));
    INFO(candidate.name);
    REQUIRE(result.qkv == std::vector<float>(result.qkv.size(), 0.0F));
  }
}

}  // namespace espalier::test
