#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/base/result.h"
#include "kernels/device/kernel_args.h"

namespace espalier::cuda {

// The functions of cuBLASLt, from the shared library when a device is opened: a program built with CUDA
// starts without half a gigabyte of library that it may never need.
struct CublasLt {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
};

// The library of the major version this program was built with: where the loader finds it, or else where the
// toolkit of the build lies. Loaded once, never unloaded. Error: not found, naming the flag backend.
Result<const CublasLt*> LoadCublasLt();

// GEMM by cuBLASLt: fp32 sums of bf16 or (never TF32) fp32 operands. For each shape the algorithm that
// the library thinks best is asked for once, and kept. One thread calls.
class CublasLtGemm {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // `workspace`: device memory of kWorkspaceBytes. Errors: no library, one that does not start.
  static Result<std::unique_ptr<CublasLtGemm>> Create(void* workspace);
  ~CublasLtGemm();

  // Puts the GEMM on the stream. Error: no algorithm for the shape, or a launch that failed.
  Status Run(const device::GemmArgs& args, cudaStream_t stream);

 private:
  // rows, n, k, a_stride, c_stride, bf16
  using Shape = std::tuple<int32_t, int32_t, int32_t, int64_t, int64_t, bool>;
  struct Choice {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t w = nullptr;
    cublasLtMatrixLayout_t a = nullptr;
    cublasLtMatrixLayout_t c = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
  };

  CublasLtGemm(const CublasLt& library, void* workspace) : library_(library), workspace_(workspace) {}
  Result<const Choice*> Choose(const device::GemmArgs& args);
  Status AskHeuristic(Choice* choice);
  void Destroy(Choice* choice);

  const CublasLt& library_;
  void* workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Shape, Choice> choices_;
};

}  // namespace espalier::cuda
