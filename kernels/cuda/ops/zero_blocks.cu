#include "kernels/cuda/body/rows.h"
#include "kernels/cuda/gpu_launch.cuh"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::ZeroBlocksArgs&, cudaStream_t);
