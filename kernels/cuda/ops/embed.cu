#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/device/kernel/rows.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::device::EmbedArgs&, cudaStream_t);

namespace espalier::cuda {

cudaError_t ProbeKernel() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, RunKernel<device::EmbedArgs>);
}

}  // namespace espalier::cuda
