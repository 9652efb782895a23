// A model whose arithmetic overflows after one token: branches that sample it end with an error, all else
// goes on. The host emulator of the cuda backend does the same in device_test.cpp.
#include <string>

#include "tests/engine/overflow_checks.h"
#include "tests/support/catch.h"
#include "tests/support/isa.h"

namespace espalier {
namespace {

using namespace test;

void CheckOn(const std::string& name, const std::string& isa, DType dtype, WeightType weights) {
  if (name == "cpu" && !HasIsa(isa)) return;
  for (const OverflowWeights::At at : {OverflowWeights::At::kHead, OverflowWeights::At::kKeys}) {
    for (const int32_t kv_blocks : {100, 24}) {
      RunnerOptions options;
      options.backend = {.name = name, .isa = isa, .dtype = dtype};
      options.backend.weights = weights;
      options.backend.threads = 2;
      options.backend.max_rows = kMaxRows;
      options.block_tokens = kBlockTokens;
      options.kv_blocks = kv_blocks;
      CAPTURE(name, isa, Name(dtype), Name(weights), at == OverflowWeights::At::kHead, kv_blocks);
      const auto runner = OverflowLlama(at, options).value();
      CheckOverflow(*runner, {.kv_blocks = kv_blocks});
    }
  }
}

TEST_CASE("on ref, branches end where the model overflows, and nothing else does") {
  CheckOn("ref", "auto", DType::kFloat32, WeightType::kDType);
  CheckOn("ref", "auto", DType::kFloat32, WeightType::kInt8);
}

TEST_CASE("on the cpu, branches end where the model overflows, and nothing else does") {
  for (const char* isa : {"auto", "avx2", "avx512_no_bf16", "amx_emulated", "portable"}) {
    CheckOn("cpu", isa, DType::kBFloat16, WeightType::kDType);
    CheckOn("cpu", isa, DType::kBFloat16, WeightType::kInt8);
  }
  CheckOn("cpu", "auto", DType::kFloat32, WeightType::kDType);
}

}  // namespace
}  // namespace espalier
