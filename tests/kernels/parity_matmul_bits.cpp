#include <cstring>
#include <vector>

#include "tests/kernels/parity.h"
#include "tests/support/catch.h"

// For backends that promise it: the bits of a row of MatMul do not depend on the other rows.
namespace espalier::test {

namespace {

constexpr int32_t kMaxRows = 256;

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

TEST_CASE("A row of MatMul has the same bits alone and in a batch") {
  auto candidates = MakeCandidates(kMaxRows);
  if (SkipWithout(candidates)) return;
  for (Candidate& candidate : MakeCandidates(kMaxRows, WeightType::kInt8)) {
    candidates.push_back(std::move(candidate));
  }
  Random random(33);
  for (Candidate& candidate : candidates) {
    Backend& backend = *candidate.backend;
    for (const int32_t k : {64, 200, 704}) {
      constexpr int32_t kWidth = 150;
      const MatrixId w = AddMatrix(backend, RandomValues(random, static_cast<size_t>(kWidth * k)), kWidth);
      const ActivationId in = PoisonedActivation(backend, ActivationKind::kOperand, k, kMaxRows);
      const ActivationId out = PoisonedActivation(backend, ActivationKind::kResidual, kWidth, kMaxRows);
      const auto matmul = [&](std::span<const float> rows) {
        std::vector<float> result;
        const auto count = static_cast<int32_t>(rows.size()) / k;
        RunStep(backend, MakeStep(RowsOnly(count)), [&] {
          backend.WriteActivation(in, rows);
          backend.MatMul(in, w, VectorId::kNone, MatMulMode::kOverwrite, out);
          result = backend.ReadActivation(out);
        });
        return result;
      };
      const auto rows = RandomValues(random, static_cast<size_t>(200 * k));
      const std::vector<float> all = matmul(rows);
      for (const int32_t count : {1, 2, 7, 16, 33, 64, 130}) {
        const std::vector<float> some =
            matmul(std::span<const float>(rows).first(static_cast<size_t>(count * k)));
        INFO(candidate.name << " k " << k << " rows " << count);
        REQUIRE(SameBits(some, std::span<const float>(all).first(some.size())));
      }
    }
  }
}

}  // namespace espalier::test
