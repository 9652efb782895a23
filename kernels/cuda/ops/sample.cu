#include "kernels/cuda/body/sampling.h"
#include "kernels/cuda/gpu_launch.cuh"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::cuda::SampleArgs&, cudaStream_t);
