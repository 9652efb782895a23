#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"

// What the kernels (kernel/*.h) are written in. nvcc compiles them for the device; the C++
// compiler compiles the same text for the host emulator (tests/kernels/host_emulator_block.h), which runs it
// on the CPU.
//
// A kernel is a function template over a `Block`, the threads that share memory. It is a sequence of phases:
//   block.ForThreads([&](int32_t thread) { ... });
// runs the lambda once for each thread and ends with a barrier, so barriers cannot stand in divergent code.
// Rules, on which the host emulator's tests depend:
//   - Between phases only arguments, the step's descriptor and Block::Broadcast are read: every thread
//     takes the same way.
//   - No thread of a phase reads what another one writes in the same phase (the host emulator runs the
//     threads of a phase in several orders and compares bits), but for Block::Add, which is atomic.
#if defined(__CUDACC__)
#define ESPALIER_DEVICE __device__ __forceinline__
#else
#define ESPALIER_DEVICE inline
#endif

namespace espalier::device {

inline constexpr int32_t kThreads = 256;  // of every block

// a * b + c. Fused on the device whatever surrounds it, so that the bits of a chain do not depend on how a
// loop was unrolled.
ESPALIER_DEVICE float MulAdd(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

ESPALIER_DEVICE float Load(const float* from) { return *from; }
ESPALIER_DEVICE float Load(const bf16_t* from) { return ToFloat(*from); }
ESPALIER_DEVICE void Store(float value, float* to) { *to = value; }
ESPALIER_DEVICE void Store(float value, bf16_t* to) { *to = ToBFloat16(value); }

// Eight or two neighbouring elements, moved by accesses as wide as the hardware has.
template <typename T, int32_t kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Pack {
  T values[kCount];
};
template <int32_t kCount, typename T>
ESPALIER_DEVICE Pack<T, kCount> LoadPack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

// Calls f with a null pointer of the type that operands have.
template <typename F>
ESPALIER_DEVICE void WithOperandType(bool bf16, F f) {
  if (bf16) {
    f(static_cast<bf16_t*>(nullptr));
  } else {
    f(static_cast<float*>(nullptr));
  }
}

template <typename T>
constexpr T MinOf(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
constexpr T MaxOf(T a, T b) {
  return a > b ? a : b;
}

constexpr int64_t RoundUpTo(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace espalier::device
