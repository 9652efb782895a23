#pragma once

#include <memory>

#include "kernels/backend.h"

namespace espalier::cpu {

// The processor as a device: synchronous, one step in flight. dtype bfloat16 or float32. A row's result
// depends only on its own path: not on the other rows of the step, the number of threads or, in the plan
// modes flatten and sequence, the plan. It does depend on the instruction set.
//
// isa: auto (the best this machine has), avx512 (with bf16 GEMM where the machine has them), avx512_bf16,
// avx512_no_bf16, avx2, portable. Errors name the flag: backend, isa, dtype, threads; set-up calls name model
// or kv-cache-bytes where memory is short.
Result<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options);

}  // namespace espalier::cpu
