#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/cuda/kernel/rows.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::EmbedArgs&, cudaStream_t);

namespace espalier::cuda {

cudaError_t ProbeKernel() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, RunKernel<EmbedArgs>);
}

}  // namespace espalier::cuda
