#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/device/kernel/sampling.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::device::SummarizeArgs&, cudaStream_t);
