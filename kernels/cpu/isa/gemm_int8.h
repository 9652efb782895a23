// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/base/int8.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/isa/gemm_int8_types.h"
#if defined(ESPALIER_AMX_UNIT)
#include "kernels/cpu/isa/amx_tiles_int8.h"
#endif

// GEMM of int8 rows with int8 weights. The sums of a chunk of k are integers; then C takes them in, chunk
// after chunk in ascending k. So the bits of an element depend on nothing else here either.
namespace espalier::cpu {
namespace {

TileRows<Int8Gemm> RowsOf(const GemmArgs& args, const GemmBlock<Int8Gemm>& block, int32_t row,
                          int32_t panel) {
  float* c = block.c + panel * kLanes;
  return {static_cast<const int8_t*>(args.a) + row * args.a_stride,
          args.a_stride,
          args.a_scales + row * args.a_groups,
          args.a_starts + row * args.a_groups,
          args.a_groups,
          c + row * args.c_stride,
          args.c_stride,
          args.weight_scales + (c - args.c)};
}

// A piece is a chunk of k, whose sums are integers until C takes them in.
template <int32_t kRows, int32_t kPanels, int32_t kPrefetchLines>
__attribute__((noinline, noclone)) void GemmTile(const TileRows<Int8Gemm>& rows,
                                                 const Piece<Int8Gemm>* pieces, int32_t count) {
  const TileRows<Int8Gemm> tile = rows;  // what is stored to C cannot change these
  for (const Piece<Int8Gemm>* piece = pieces; piece != pieces + count; ++piece) {
    const int64_t group = piece->operand_offset / kInt8Group;
    Int8Sum sums[kRows][kPanels];
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const Int8Sum start = StartInt8Sum(tile.starts[r * tile.groups + group]);
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) sums[r][p] = start;
    }
    GemmPiece<kRows, kPanels, kPrefetchLines>(tile.a + piece->operand_offset, tile.a_stride, *piece, sums);
    Vec weight_scales[kPanels];
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) weight_scales[p] = Load(tile.weight_scales + p * kLanes);
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const Vec scale = Set1(tile.scales[r * tile.groups + group]);
      float* c = tile.c + r * tile.c_stride;
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) {
        const Vec sum = Mul(FinishInt8Sum(sums[r][p]), scale);
        Store(c + p * kLanes, MulAdd(sum, weight_scales[p], Load(c + p * kLanes)));
      }
    }
  }
}

// One group; `count` is rounded up to 16. The same q as QuantizeInt8's.
ESPALIER_INLINE float QuantizeGroup(const float* in, int32_t count, int8_t* out) {
  Vec largest = Set1(0.0F);
  Vec not_finite = Set1(0.0F);  // v - v is zero but for infinities and NaN
  for (int32_t i = 0; i < count; i += kLanes) {
    const Vec v = Load(in + i);
    largest = Max(largest, Max(v, Sub(Set1(0.0F), v)));
    not_finite = Add(not_finite, Sub(v, v));
  }
  const float max = ReduceMax(largest);
  const bool zeros = !(max >= kInt8Min);
  const Vec inverse = Set1(zeros ? 0.0F : kInt8Max / max);
  for (int32_t i = 0; i < count; i += kLanes) {
    const Vec q = Round(Mul(Load(in + i), inverse));
    StoreInt8(out + i, Min(Max(q, Set1(-kInt8Max)), Set1(kInt8Max)));
  }
  return (zeros ? 0.0F : max / kInt8Max) + ReduceAdd(not_finite);
}

void QuantizeRow(const QuantizeArgs& args) {
  for (int64_t k = 0; k < args.columns; k += kInt8Group) {
    const auto left = static_cast<int32_t>(args.columns - k < kInt8Group ? args.columns - k : kInt8Group);
    const int32_t count = (left + kLanes - 1) / kLanes * kLanes;
    args.scales[k / kInt8Group] = QuantizeGroup(args.in + k, count, args.out + k);
    int32_t sum = 0;
    for (int32_t i = 0; i < count; ++i) sum += args.out[k + i];
    args.starts[k / kInt8Group] = -kInt8Bias * sum;
    if (count % (2 * kLanes) != 0) StoreInt8(args.out + k + count, Set1(0.0F));
  }
}

}  // namespace
}  // namespace espalier::cpu
