#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/gpu_ops.h"

// How a kernel is launched. A file in ops/ includes its kernel and then this, and instantiates LaunchKernel.
namespace espalier::cuda {

// A block of kThreads threads of the device: the Block of device_code.h.
class GpuBlock {
 public:
  __device__ explicit GpuBlock(unsigned char* shared) : shared_(shared) {}
  __device__ int64_t index() const { return blockIdx.x; }
  __device__ int64_t blocks() const { return gridDim.x; }
  template <typename T>
  __device__ T* Shared() const {
    return reinterpret_cast<T*>(shared_);
  }
  template <typename F>
  __device__ __forceinline__ void ForThreads(F f) const {
    f(static_cast<int32_t>(threadIdx.x));
    __syncthreads();
  }
  // The barrier keeps a later phase from writing what a slow thread has not read yet.
  template <typename T>
  __device__ T Broadcast(const T* shared) const {
    const T value = *shared;
    __syncthreads();
    return value;
  }
  __device__ void Add(uint64_t* to, uint64_t value) const {
    static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
  }

 private:
  unsigned char* shared_;
};

template <typename Args>
__global__ void __launch_bounds__(device::kThreads, 2) RunKernel(const __grid_constant__ Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  GpuBlock block(shared);
  Run(block, args);
}

template <typename Args>
cudaError_t LaunchKernel(const Args& args, cudaStream_t stream) {
  const device::LaunchShape shape = args.Shape();
  if (shape.blocks == 0) return cudaSuccess;
  if (shape.blocks < 0 || shape.blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  constexpr int64_t kWithoutAsking = 48 << 10;
  if (shape.shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        RunKernel<Args>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  RunKernel<Args><<<static_cast<unsigned>(shape.blocks), device::kThreads,
                    static_cast<size_t>(shape.shared_bytes), stream>>>(args);
  return cudaGetLastError();
}

}  // namespace espalier::cuda
