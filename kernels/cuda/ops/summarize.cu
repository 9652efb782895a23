#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/cuda/kernel/sampling.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::SummarizeArgs&, cudaStream_t);
