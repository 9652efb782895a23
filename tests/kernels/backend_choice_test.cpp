#include <string>

#include "kernels/backend.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

BackendOptions Named(const std::string& name) {
  BackendOptions options;
  options.name = name;
  options.threads = 1;
  options.max_rows = 16;
  return options;
}

}  // namespace

TEST_CASE("Asked for a GPU that is not there, the error names the flag and the reason") {
  const auto backend = CreateBackend(Named("cuda"));
  if (backend) {
    CHECK((*backend)->info().name == "cuda");
    return;
  }
  INFO(backend.error().ToString());
  CHECK(backend.error().code == ErrorCode::kUnimplemented);
  CHECK(backend.error().field == "backend");
#ifdef ESPALIER_TEST_HAS_CUDA
  CHECK(backend.error().message.find("NVIDIA") != std::string::npos);
#else
  CHECK(backend.error().message == "this program was built without the cuda backend");
#endif
}

TEST_CASE("auto takes the CPU where there is no GPU, and says why") {
  const auto gpu = CreateBackend(Named("cuda"));
  const auto backend = CreateBackend(Named("auto"));
  REQUIRE(backend.ok());
  const BackendInfo& info = (*backend)->info();
  CHECK(info.name == (gpu.ok() ? "cuda" : "cpu"));
  CHECK(info.fallback == (gpu.ok() ? std::string() : gpu.error().message));
  CHECK(CreateBackend(Named("cpu")).value()->info().fallback.empty());
}

TEST_CASE("auto takes the CPU for int8 weights, which no GPU has yet") {
  BackendOptions options = Named("auto");
  options.weights = WeightType::kInt8;
  const auto backend = CreateBackend(options);
  REQUIRE(backend.ok());
  CHECK((*backend)->info().name == "cpu");
  CHECK((*backend)->info().weights == WeightType::kInt8);
  options.name = "cuda";
  const auto refused = CreateBackend(options);
  REQUIRE(!refused.ok());
#ifdef ESPALIER_TEST_HAS_CUDA
  CHECK(refused.error().field == "weights");
#endif
}

TEST_CASE("An unknown backend is refused by name") {
  const auto backend = CreateBackend(Named("tpu"));
  REQUIRE(!backend.ok());
  CHECK(backend.error().field == "backend");
  CHECK(backend.error().message.find("tpu") != std::string::npos);
}

}  // namespace espalier::test
