// The model against transformers on the cuda backend: its emulator on the host or, with
// ESPALIER_GOLDEN_DEVICE, a GPU.
#include "tests/model/golden_checks.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#ifndef ESPALIER_GOLDEN_DEVICE
#include "tests/kernels/host_emulator.h"
#endif

namespace espalier::test {
namespace {

void OnDevice(DType dtype, void (*check)(const RunnerOptions&)) {
  RunnerOptions options;
  options.backend.name = "cuda";
  options.backend.dtype = dtype;
  options.backend.max_rows = 64;
  options.kv_blocks = 40;
#ifndef ESPALIER_GOLDEN_DEVICE
  options.make_backend = [](const BackendOptions& backend) {
    return device::CreateHostEmulatorBackend(backend);
  };
#endif
  const auto created = options.make_backend(options.backend);
  if (!created) return SkipTest(created.error().ToString());
  check(options);
}

TEST_CASE("cuda in float32 agrees with transformers on random configurations") {
  OnDevice(DType::kFloat32, CheckConfigs);
}
TEST_CASE("cuda in bfloat16 is as exact as transformers on random configurations") {
  OnDevice(DType::kBFloat16, CheckConfigs);
}
TEST_CASE("cuda in float32 agrees with transformers on folders of every storage form") {
  OnDevice(DType::kFloat32, CheckFolders);
}
TEST_CASE("cuda in bfloat16 is as exact as transformers on folders of every storage form") {
  OnDevice(DType::kBFloat16, CheckFolders);
}
TEST_CASE("cuda in float32 agrees with transformers on the demo model") {
  OnDevice(DType::kFloat32, CheckDemo);
}
TEST_CASE("cuda in bfloat16 is as exact as transformers on the demo model") {
  OnDevice(DType::kBFloat16, CheckDemo);
}
TEST_CASE("cuda in float32 agrees with transformers on TinyStories-656K") {
  OnDevice(DType::kFloat32, CheckTinyStories);
}

}  // namespace
}  // namespace espalier::test
