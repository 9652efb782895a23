// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/attention_tile.h"

// Scores of a segment become probabilities, four rows at a time: one row's chain of maximum, exponentials and
// sum leaves most of the processor idle.
namespace espalier::cpu {
namespace {

constexpr int32_t kSoftmaxRows = 4;

// 2^x for x <= 0, as precise as the operands that it becomes; zero at minus infinity.
template <typename P>
ESPALIER_INLINE Vec Probability(Vec x) {
  return Exp2(x);
}
template <typename P>
ESPALIER_INLINE void StoreTwo(typename P::Operand* out, Vec first, Vec second) {
  P::StoreOperands(out, first);
  P::StoreOperands(out + kLanes, second);
}

#if defined(__AVX512BF16__)
// Operands have 8 bits: the polynomial of degree 4 nearest to 2^f in [0, 1), relative error 2.7e-6. The
// instructions that split x and scale by its whole part take any x, infinities included.
template <>
ESPALIER_INLINE Vec Probability<Bf16Gemm>(Vec x) {
  const Vec f = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  Vec p = Set1(0.013534167781F);
  p = MulAdd(p, f, Set1(0.052011460066F));
  p = MulAdd(p, f, Set1(0.241442754865F));
  p = MulAdd(p, f, Set1(0.693003833294F));
  p = MulAdd(p, f, Set1(1.000002622604F));
  return {_mm512_scalef_ps(p.v, x.v)};
}
template <>
ESPALIER_INLINE void StoreTwo<Bf16Gemm>(bf16_t* out, Vec first, Vec second) {
  const __m512bh rounded = _mm512_cvtne2ps_pbh(second.v, first.v);
  __builtin_memcpy(out, &rounded, sizeof(rounded));
}
#endif

// The sum of probabilities of a row without a maximum: zero where it sees no token; NaN where what it sees is
// NaN, which Max passes over.
__attribute__((noinline)) Vec SumOfNothing(const float* scores, int32_t begin, int32_t end) {
  int32_t nan = 0;
  for (int32_t i = begin; i < end; ++i) nan |= scores[i] != scores[i] ? 1 : 0;
  return Set1(nan != 0 ? __builtin_nanf("") : 0.0F);
}

// Rows [packed, packed + count), count <= kSoftmaxRows. Columns are added one vector after the other, so that
// a sum does not depend on where the columns begin or on the rows next to it.
template <typename P>
void SoftmaxRows(const Tile<P>& t, const KvSegment& segment, int32_t packed, int32_t count) {
  const Vec scale = Set1(t.args.scale_log2);
  const int32_t begin = segment.column_begin;
  const int32_t end = segment.column_end;
  Vec max[kSoftmaxRows];
  for (int32_t r = 0; r < kSoftmaxRows; ++r) max[r] = Set1(-__builtin_inff());
  for (int32_t r = 0; r < count; ++r) {
    const float* scores = t.Scores(packed + r);
    for (int32_t i = begin; i < end; i += kLanes) max[r] = Max(max[r], Load(scores + i));
  }
  float maximum[kSoftmaxRows];
  ReduceMaxFour(max, maximum);
  Vec sums[kSoftmaxRows];
  for (int32_t r = 0; r < kSoftmaxRows; ++r) sums[r] = Set1(0.0F);
  for (int32_t r = 0; r < count; ++r) {
    if (maximum[r] == -__builtin_inff()) {
      t.x.segment_max[packed + r] = 0.0F;
      sums[r] = SumOfNothing(t.Scores(packed + r), begin, end);
      continue;
    }
    const float* scores = t.Scores(packed + r);
    auto* probabilities = t.Probabilities(packed + r);
    const float rounded = __builtin_ceilf(maximum[r] * t.args.scale_log2);
    t.x.segment_max[packed + r] = rounded;
    const Vec offset = Set1(-rounded);
    Vec sum = Set1(0.0F);
    int32_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      const Vec first = Probability<P>(MulAdd(Load(scores + i), scale, offset));
      const Vec second = Probability<P>(MulAdd(Load(scores + i + kLanes), scale, offset));
      StoreTwo<P>(probabilities + i, first, second);
      sum = Add(Add(sum, first), second);
    }
    if (i < end) {
      const Vec last = Probability<P>(MulAdd(Load(scores + i), scale, offset));
      P::StoreOperands(probabilities + i, last);
      sum = Add(sum, last);
    }
    sums[r] = sum;
  }
  float sum[kSoftmaxRows];
  ReduceAddFour(sums, sum);
  for (int32_t r = 0; r < count; ++r) t.x.segment_sum[packed + r] = sum[r];
}

// Scores become probabilities in place, operands over the floats they were made from. A row that sees nothing
// of the segment gets the sum zero.
template <typename P>
void SoftmaxSegment(const Tile<P>& t, const KvSegment& segment) {
  const int32_t end = t.Packed(segment.row_end);
  for (int32_t packed = t.Packed(segment.row_begin); packed < end; packed += kSoftmaxRows) {
    SoftmaxRows(t, segment, packed, MinOf(kSoftmaxRows, end - packed));
  }
}

}  // namespace
}  // namespace espalier::cpu
