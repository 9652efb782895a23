// For kernels_amx.cpp only: everything has internal linkage.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/inline.h"
#include "kernels/cpu/isa/tile_shapes.h"

namespace espalier::cpu {
namespace {

// The processor's own tiles. In assembly: the compilers' intrinsics take a tile's
// number as text only, and g++ 12 moves stores across them.
struct AmxUnit {
  static ESPALIER_INLINE void Configure(const TileShapes& shapes) {
    asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory");
  }
  static ESPALIER_INLINE void Release() { asm volatile("tilerelease" ::: "memory"); }

  template <int32_t kTile>
  static ESPALIER_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // Rows lie `stride` bytes apart.
  template <int32_t kTile>
  static ESPALIER_INLINE void Load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int32_t kTile>
  static ESPALIER_INLINE void Store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  // C += A * B. A holds rows of k; B, for each four bytes of k, the 16 outputs side by side.
  template <int32_t kC, int32_t kA, int32_t kB>
  static ESPALIER_INLINE void DotBf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  // A signed, B unsigned.
  template <int32_t kC, int32_t kA, int32_t kB>
  static ESPALIER_INLINE void DotInt8() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace
}  // namespace espalier::cpu
