// The model against transformers (scripts/make_model_golden_files.py), on every backend and type.
#include <cstdio>
#include <functional>

#include "tests/model/golden_checks.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/isa.h"

namespace espalier::test {
namespace {

RunnerOptions OptionsFor(const std::string& backend, DType dtype, const std::string& isa,
                         WeightType weights) {
  RunnerOptions options;
  options.backend.name = backend;
  options.backend.dtype = dtype;
  options.backend.isa = isa;
  options.backend.weights = weights;
  options.backend.threads = 2;
  options.backend.max_rows = 64;
  options.kv_blocks = 40;
  return options;
}

// Calls `check` with options for the instruction set of this machine, and with others that it has or
// emulates. Skips the test where the program lacks the backend.
void ForEachIsa(const std::string& backend, DType dtype,
                const std::function<void(const RunnerOptions&)>& check,
                WeightType weights = WeightType::kDType) {
  for (const char* isa : {"auto", "amx_emulated", "avx2", "portable"}) {
    const RunnerOptions options = OptionsFor(backend, dtype, isa, weights);
    const auto created = CreateBackend(options.backend);
    if (created.ok()) {
      check(options);
    } else if (created.error().code == ErrorCode::kUnimplemented) {
      SkipTest(created.error().ToString());
      return;
    } else {
      REQUIRE_FALSE(HasIsa(isa));
      std::printf("left out: %s\n", created.error().ToString().c_str());
    }
    if (backend == "ref") return;
  }
}

TEST_CASE("ref in float32 agrees with transformers on random configurations") {
  ForEachIsa("ref", DType::kFloat32, CheckConfigs);
}
TEST_CASE("cpu in float32 agrees with transformers on random configurations") {
  ForEachIsa("cpu", DType::kFloat32, CheckConfigs);
}
TEST_CASE("cpu in bfloat16 is as exact as transformers on random configurations") {
  ForEachIsa("cpu", DType::kBFloat16, CheckConfigs);
}

TEST_CASE("ref with int8 weights is near transformers on random configurations") {
  ForEachIsa("ref", DType::kFloat32, CheckConfigs, WeightType::kInt8);
}
TEST_CASE("cpu with int8 weights is near transformers on random configurations") {
  ForEachIsa("cpu", DType::kBFloat16, CheckConfigs, WeightType::kInt8);
}

TEST_CASE("ref in float32 agrees with transformers on folders of every storage form") {
  ForEachIsa("ref", DType::kFloat32, CheckFolders);
}
TEST_CASE("cpu in float32 agrees with transformers on folders of every storage form") {
  ForEachIsa("cpu", DType::kFloat32, CheckFolders);
}
TEST_CASE("cpu in bfloat16 is as exact as transformers on folders of every storage form") {
  ForEachIsa("cpu", DType::kBFloat16, CheckFolders);
}

TEST_CASE("cpu with int8 weights is near transformers on folders of every storage form") {
  ForEachIsa("cpu", DType::kBFloat16, CheckFolders, WeightType::kInt8);
}

TEST_CASE("ref in float32 agrees with transformers on the demo model") {
  ForEachIsa("ref", DType::kFloat32, CheckDemo);
}
TEST_CASE("cpu in float32 agrees with transformers on the demo model") {
  ForEachIsa("cpu", DType::kFloat32, CheckDemo);
}
TEST_CASE("cpu in bfloat16 is as exact as transformers on the demo model") {
  ForEachIsa("cpu", DType::kBFloat16, CheckDemo);
}

TEST_CASE("ref with int8 weights is near transformers on the demo model") {
  ForEachIsa("ref", DType::kFloat32, CheckDemo, WeightType::kInt8);
}
TEST_CASE("cpu with int8 weights is near transformers on the demo model") {
  ForEachIsa("cpu", DType::kBFloat16, CheckDemo, WeightType::kInt8);
}

TEST_CASE("ref in float32 agrees with transformers on TinyStories-656K") {
  ForEachIsa("ref", DType::kFloat32, CheckTinyStories);
}
TEST_CASE("cpu in float32 agrees with transformers on TinyStories-656K") {
  ForEachIsa("cpu", DType::kFloat32, CheckTinyStories);
}
TEST_CASE("cpu in bfloat16 is as exact as transformers on TinyStories-656K") {
  ForEachIsa("cpu", DType::kBFloat16, CheckTinyStories);
}
TEST_CASE("cpu with int8 weights is near transformers on TinyStories-656K") {
  ForEachIsa("cpu", DType::kBFloat16, CheckTinyStories, WeightType::kInt8);
}

}  // namespace
}  // namespace espalier::test
