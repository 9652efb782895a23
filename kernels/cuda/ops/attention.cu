#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/device/kernel/attention.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::device::AttentionArgs&, cudaStream_t);
