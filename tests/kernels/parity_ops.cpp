#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 128;

// Sets up and runs one operation on a backend, and returns its output.
using Operation = std::function<std::vector<float>(Backend&)>;

void CompareWithRef(const std::string& what, std::vector<Candidate>& candidates, Backend& ref,
                    const Operation& operation) {
  const std::vector<float> expected = operation(ref);
  for (Candidate& candidate : candidates) {
    const double error = NormalisedError(operation(*candidate.backend), expected);
    INFO(what << " on " << candidate.name << ": error " << error);
    REQUIRE(error <= ToleranceOf(candidate));
  }
}

std::vector<float> OneStep(Backend& backend, int32_t rows, ActivationId out,
                           const std::function<void()>& body) {
  std::vector<float> result;
  RunStep(backend, MakeStep(RowsOnly(rows)), [&] {
    body();
    result = backend.ReadActivation(out);
  });
  return result;
}

std::vector<float> RunMatMul(Backend& backend, const std::vector<float>& in,
                             const std::vector<float>& weights, const std::vector<float>& bias,
                             const std::vector<float>& out_before, int32_t rows) {
  const auto n = static_cast<int64_t>(bias.size());
  const auto k = static_cast<int64_t>(in.size()) / rows;
  const MatrixId w = AddMatrix(backend, weights, n);
  const ActivationId a = PoisonedActivation(backend, ActivationKind::kOperand, k, kMaxRows);
  const ActivationId c = PoisonedActivation(backend, ActivationKind::kResidual, n, kMaxRows);
  const VectorId b = rows % 2 == 0 ? AddVector(backend, bias) : VectorId::kNone;
  const MatMulMode mode = out_before.empty() ? MatMulMode::kOverwrite : MatMulMode::kAccumulate;
  return OneStep(backend, rows, c, [&] {
    backend.WriteActivation(a, in);
    if (mode == MatMulMode::kAccumulate) backend.WriteActivation(c, out_before);
    backend.MatMul(a, w, b, mode, c);
  });
}

void CheckMatMul(std::vector<Candidate>& candidates, Backend& ref) {
  Random random(1);
  const int32_t row_counts[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 65, 128};
  const int32_t widths[] = {1, 16, 48, 100, 259, 384, 1000};
  const int32_t depths[] = {16, 32, 64, 80, 176, 257, 704};
  for (int32_t i = 0; i < 60; ++i) {
    const int32_t rows = row_counts[i % 14];
    const int32_t n = widths[Pick(random, 0, 6)];
    const int32_t k = depths[Pick(random, 0, 6)];
    const auto in = RandomValues(random, static_cast<size_t>(rows * k));
    const auto weights = RandomValues(random, static_cast<size_t>(n * k));
    const auto bias = RandomValues(random, static_cast<size_t>(n));
    const bool accumulate = Pick(random, 0, 1) == 1;
    const auto before =
        accumulate ? RandomValues(random, static_cast<size_t>(rows * n)) : std::vector<float>{};
    CompareWithRef("matmul " + std::to_string(rows) + "x" + std::to_string(n) + "x" + std::to_string(k),
                   candidates, ref,
                   [&](Backend& backend) { return RunMatMul(backend, in, weights, bias, before, rows); });
  }
}

void CheckStackedMatrices(std::vector<Candidate>& candidates, Backend& ref) {
  Random random(2);
  constexpr int32_t kCols = 96;
  const auto in = RandomValues(random, 5 * kCols);
  const auto first = RandomValues(random, 40 * kCols);
  std::vector<uint16_t> second;  // bf16
  for (const float value : RandomValues(random, 24 * kCols)) second.push_back(ToBFloat16(value));
  std::vector<uint16_t> third;  // fp16
  for (const float value : RandomValues(random, 8 * kCols)) third.push_back(ToHalf(value));
  const std::vector<HostTensor> parts = {{first.data(), DType::kFloat32, 40, kCols},
                                         {second.data(), DType::kBFloat16, 24, kCols},
                                         {third.data(), DType::kFloat16, 8, kCols}};
  CompareWithRef("stacked matrix", candidates, ref, [&](Backend& backend) {
    const MatrixId w = backend.AddMatrix(parts).value();
    const ActivationId a = PoisonedActivation(backend, ActivationKind::kOperand, kCols, kMaxRows);
    const ActivationId c = PoisonedActivation(backend, ActivationKind::kResidual, 72, kMaxRows);
    return OneStep(backend, 5, c, [&] {
      backend.WriteActivation(a, in);
      backend.MatMul(a, w, VectorId::kNone, MatMulMode::kOverwrite, c);
    });
  });
}

}  // namespace

TEST_CASE("MatMul agrees with ref") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  CheckMatMul(candidates, *MakeRef(kMaxRows));
}

TEST_CASE("Stacked matrices of every storage type are one matrix") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  CheckStackedMatrices(candidates, *MakeRef(kMaxRows));
}

TEST_CASE("MatMul with int8 weights agrees with ref, whose integers are the same") {
  auto candidates = MakeCandidates(kMaxRows, WeightType::kInt8);
  if (SkipWithout(candidates)) return;
  CheckMatMul(candidates, *MakeRef(kMaxRows, WeightType::kInt8));
  CheckStackedMatrices(candidates, *MakeRef(kMaxRows, WeightType::kInt8));
}

TEST_CASE("Normalisation agrees with ref") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  const auto ref = MakeRef(kMaxRows);
  Random random(3);
  for (const int32_t cols : {16, 64, 96, 100, 576, 2048}) {
    for (const int32_t rows : {1, 7, 128}) {
      // Small rows show whether epsilon is added.
      const auto in = RandomValues(random, static_cast<size_t>(rows * cols), rows == 7 ? 0.002F : 3.0F);
      const auto weight = RandomValues(random, static_cast<size_t>(cols));
      CompareWithRef("norm of " + std::to_string(cols), candidates, *ref, [&](Backend& backend) {
        const VectorId w = AddVector(backend, weight);
        const ActivationId a = PoisonedActivation(backend, ActivationKind::kResidual, cols, kMaxRows);
        const ActivationId o = PoisonedActivation(backend, ActivationKind::kOperand, cols, kMaxRows);
        return OneStep(backend, rows, o, [&] {
          backend.WriteActivation(a, in);
          backend.RmsNorm(a, w, 1e-5F, o);
        });
      });
    }
  }
}

TEST_CASE("SwiGLU agrees with ref, also where the gate saturates") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  const auto ref = MakeRef(kMaxRows);
  Random random(4);
  for (const int32_t cols : {16, 100, 176, 1408}) {
    for (const float spread : {1.0F, 60.0F}) {
      const auto in = RandomValues(random, static_cast<size_t>(9 * 2 * cols), spread);
      CompareWithRef("swiglu of " + std::to_string(cols), candidates, *ref, [&](Backend& backend) {
        const ActivationId a = PoisonedActivation(backend, ActivationKind::kResidual, 2 * cols, kMaxRows);
        const ActivationId o = PoisonedActivation(backend, ActivationKind::kOperand, cols, kMaxRows);
        return OneStep(backend, 9, o, [&] {
          backend.WriteActivation(a, in);
          backend.SwiGlu(a, o);
        });
      });
    }
  }
}

TEST_CASE("Embedding and gathering move rows unchanged") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (Candidate& candidate : MakeCandidates(kMaxRows, WeightType::kInt8)) {
    candidates.push_back(std::move(candidate));
  }
  const auto ref = MakeRef(kMaxRows);
  Random random(5);
  constexpr int32_t kVocab = 301;
  constexpr int32_t kCols = 72;
  const auto table = RandomValues(random, kVocab * kCols);
  auto step = MakeStep(RowsOnly(50));
  for (RowToken& token : step->tokens) token.token_id = Pick(random, 0, kVocab - 1);
  step->tokens.front().token_id = kVocab - 1;
  step->logit_rows = {0, 3, 4, 31, 49};
  const auto run = [&](Backend& backend) {
    const MatrixId t = AddTable(backend, table, kVocab);
    const ActivationId rows = PoisonedActivation(backend, ActivationKind::kResidual, kCols, kMaxRows);
    const ActivationId gathered = PoisonedActivation(backend, ActivationKind::kResidual, kCols, kMaxRows);
    std::vector<float> result;
    RunStep(backend, step, [&] {
      backend.Embed(t, rows);
      backend.GatherLogitRows(rows, gathered);
      result = backend.ReadActivation(rows);
      const auto some = backend.ReadActivation(gathered);
      result.insert(result.end(), some.begin(), some.end());
    });
    return result;
  };
  const std::vector<float> expected = run(*ref);
  REQUIRE(expected.size() == 55 * kCols);
  for (Candidate& candidate : candidates) {
    INFO(candidate.name);
    REQUIRE(run(*candidate.backend) == expected);
  }
}

}  // namespace espalier::test
