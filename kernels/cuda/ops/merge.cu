#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/cuda/kernel/attention.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::MergeArgs&, cudaStream_t);
