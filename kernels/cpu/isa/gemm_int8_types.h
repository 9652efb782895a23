// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/base/int8.h"
#include "kernels/cpu/isa/int8_sums.h"
#include "kernels/cpu/isa/tiles.h"

// The types of GEMMs of int8 rows with int8 weights.
namespace espalier::cpu {
namespace {

static_assert(kInt8Group == kChunkK);

#if defined(ESPALIER_AMX_UNIT)
using Int8Tiles = AmxTiles;
#else
struct Int8Tiles : RegisterTiles {
  static constexpr const auto& kTileRows = kInt8RowSizes;
};
#endif

struct Int8Gemm : Int8Tiles {
  using Weight = uint8_t;
  using Operand = int8_t;
  using Line = Int8Line;
  using Broadcast = Int8Operand;
  using Sum = Int8Sum;
  static constexpr int32_t kStep = 4;
  static ESPALIER_INLINE Line LoadLine(const Weight* p) { return LoadInt8Line(p); }
  static ESPALIER_INLINE Broadcast LoadOperand(const Operand* p) { return LoadInt8Operand(p); }
  static ESPALIER_INLINE Sum MulAdd(Line w, Broadcast a, Sum sum) { return Int8MulAdd(w, a, sum); }
};

// C is always added to, and its panels lie side by side.
template <>
struct TileRows<Int8Gemm> {
  const int8_t* a;
  int64_t a_stride;
  const float* scales;    // of the first row's groups; `groups` from row to row
  const int32_t* starts;  // of the same groups
  int64_t groups;
  float* c;
  int64_t c_stride;
  const float* weight_scales;  // of the first panel

  template <int32_t kPanels>
  void Skip(int32_t rows) {
    a += rows * a_stride;
    scales += rows * groups;
    starts += rows * groups;
    c += rows * c_stride;
  }
};

}  // namespace
}  // namespace espalier::cpu
