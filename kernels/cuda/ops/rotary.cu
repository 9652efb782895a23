#include "kernels/cuda/gpu_launch.cuh"
#include "kernels/device/kernel/rows.h"

template cudaError_t espalier::cuda::LaunchKernel(const espalier::device::RotaryArgs&, cudaStream_t);
