#include "kernels/cuda/cublas_lt.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {

TEST_CASE("cuBLASLt is found at run time and has every function that GEMM calls") {
  const auto library = cuda::LoadCublasLt();
  if (!library) {
    // A library that lacks a function is a fault, one that is not installed is not.
    REQUIRE(library.error().message.find(" has no ") == std::string::npos);
    return SkipTest(library.error().ToString());
  }
  CHECK((*library)->version() / 10000 == CUBLAS_VER_MAJOR);
}

}  // namespace espalier::test
