#include "kernels/cuda/body/rows.h"
#include "kernels/cuda/gpu_launch.cuh"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::EmbedArgs&, cudaStream_t);

namespace espalier::cuda {

cudaError_t ProbeKernel() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, RunKernel<EmbedArgs>);
}

}  // namespace espalier::cuda
