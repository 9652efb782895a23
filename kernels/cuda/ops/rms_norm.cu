#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/cuda/kernel/rows.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::RmsNormArgs&, cudaStream_t);
