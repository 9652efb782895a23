#include "kernels/cuda/body/attention.h"
#include "kernels/cuda/gpu_launch.cuh"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::MergeArgs&, cudaStream_t);
