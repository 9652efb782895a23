// For kernels_amx*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/amx_tiles.h"
#include "kernels/cpu/isa/gemm_int8_types.h"

namespace espalier::cpu {
namespace {

// One panel of a stack. The sums of a chunk of k leave the unit as integers, as they are added up in vector
// registers elsewhere: the same bits.
template <int32_t kTiles>
__attribute__((noinline, noclone)) void GemmStack(const TileRows<Int8Gemm>& rows, const TileStack& stack,
                                                  const Piece<Int8Gemm>* pieces, int32_t count,
                                                  int32_t panel) {
  alignas(64) int32_t sums[kTiles][kTileHeight * kLanes];
  const char* a[kTiles];
  for (int32_t tile = 0; tile < kTiles; ++tile) {
    a[tile] = reinterpret_cast<const char*>(rows.a + stack.FirstRow(tile) * rows.a_stride);
  }
  const Vec weight_scale = Load(rows.weight_scales + panel * kLanes);
  for (int32_t i = 0; i < count; ++i) {
    const int64_t group = pieces[i].operand_offset / kInt8Group;
    ForTiles<kTiles>([&]<int32_t kTile>() __attribute__((always_inline)) { AmxUnit::Zero<kTile>(); });
    GemmPanel<kTiles>(a, rows.a_stride, pieces[i], panel);
    ForTiles<kTiles>([&]<int32_t kTile>()
                         __attribute__((always_inline)) { AmxUnit::Store<kTile>(sums[kTile], kLineBytes); });
    int32_t row = 0;
    for (int32_t tile = 0; tile < kTiles; ++tile) {
      // Rows that two tiles share are added once.
      for (; row < stack.FirstRow(tile) + stack.height; ++row) {
        Int8Sum sum = StartInt8Sum(rows.starts[row * rows.groups + group]);
        const int32_t* line = sums[tile] + (row - stack.FirstRow(tile)) * kLanes;
        sum.v += (IntLanes)_mm512_load_si512(line);
        float* c = rows.c + row * rows.c_stride + panel * kLanes;
        const Vec value = Mul(FinishInt8Sum(sum), Set1(rows.scales[row * rows.groups + group]));
        Store(c, MulAdd(value, weight_scale, Load(c)));
      }
    }
  }
}

}  // namespace
}  // namespace espalier::cpu
