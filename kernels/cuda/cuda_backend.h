#pragma once

#include <memory>

#include "kernels/backend.h"

namespace espalier::cuda {

// An NVIDIA GPU of compute capability 8.0 or later (the first that CUDA_VISIBLE_DEVICES leaves). Weights, KV
// and matrix operands in bfloat16 or float32 (not rounded to TF32); two steps in flight. A row's attention
// depends only on its own path; MatMul also on the size that RowBucket rounds the step's rows
// to. Errors name the flag: backend (no driver, no device, too old a one, no cuBLASLt), dtype, weights,
// max_rows; set-up calls name model or kv-cache-bytes where memory is short.
Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

}  // namespace espalier::cuda
