// For the kernels_*.cpp of its instruction set only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cpu/isa/inline.h"

namespace espalier::cpu {
namespace {

// Sixteen floats.
struct Vec {
  __m512 v;
};

// Rows that a register tile can have, descending, and its panels: 24 accumulators leave room for the weights
// of a line, which expanded bf16 needs two registers for. Broadcasts come at one a cycle, multiply-adds at
// two: with two panels and more they keep up.
#if defined(ESPALIER_SMALL_TILES)  // instrumented register tiles take minutes to compile
constexpr int32_t kRowSizes[] = {2, 1};
constexpr int32_t kTilePanels = 2;
#elif defined(__AVX512BF16__)
constexpr int32_t kRowSizes[] = {6, 5, 4, 3, 2, 1};
constexpr int32_t kTilePanels = 4;
#else
constexpr int32_t kRowSizes[] = {12, 8, 4, 2, 1};
constexpr int32_t kTilePanels = 2;
#endif

ESPALIER_INLINE Vec Set1(float x) { return {_mm512_set1_ps(x)}; }
ESPALIER_INLINE Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
ESPALIER_INLINE void Store(float* p, Vec v) { _mm512_storeu_ps(p, v.v); }
ESPALIER_INLINE Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
ESPALIER_INLINE Vec MulAdd(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ESPALIER_INLINE Vec Round(Vec v) {
  return {_mm512_roundscale_ps(v.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^n for integers -127 <= n <= 127, -127 giving zero.
ESPALIER_INLINE Vec PowerOfTwo(Vec n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
ESPALIER_INLINE float ReduceMax(Vec v) { return _mm512_reduce_max_ps(v.v); }
ESPALIER_INLINE float ReduceAdd(Vec v) { return _mm512_reduce_add_ps(v.v); }
// Four at once, a result each; the order of additions is the same for all four.
template <typename Op>
ESPALIER_INLINE void ReduceFour(const Vec (&v)[4], float* out, Op op) {
  const Vec ab = op(Vec{_mm512_unpacklo_ps(v[0].v, v[1].v)}, Vec{_mm512_unpackhi_ps(v[0].v, v[1].v)});
  const Vec cd = op(Vec{_mm512_unpacklo_ps(v[2].v, v[3].v)}, Vec{_mm512_unpackhi_ps(v[2].v, v[3].v)});
  const __m512d ab_pairs = _mm512_castps_pd(ab.v);
  const __m512d cd_pairs = _mm512_castps_pd(cd.v);
  Vec all = op(Vec{_mm512_castpd_ps(_mm512_unpacklo_pd(ab_pairs, cd_pairs))},
               Vec{_mm512_castpd_ps(_mm512_unpackhi_pd(ab_pairs, cd_pairs))});
  all = op(all, Vec{_mm512_shuffle_f32x4(all.v, all.v, 0x4e)});
  all = op(all, Vec{_mm512_shuffle_f32x4(all.v, all.v, 0xb1)});
  _mm_storeu_ps(out, _mm512_castps512_ps128(all.v));
}
ESPALIER_INLINE void ReduceMaxFour(const Vec (&v)[4], float* out) {
  ReduceFour(
      v, out, [](Vec a, Vec b) __attribute__((always_inline)) { return Max(a, b); });
}
ESPALIER_INLINE void ReduceAddFour(const Vec (&v)[4], float* out) {
  ReduceFour(
      v, out, [](Vec a, Vec b) __attribute__((always_inline)) { return Add(a, b); });
}
// Splits 16 pairs of bf16 into the first and the second of each pair.
ESPALIER_INLINE void SplitPairs(const bf16_t* p, Vec* first, Vec* second) {
  const __m512i line = _mm512_loadu_si512(p);
  *first = {_mm512_castsi512_ps(_mm512_slli_epi32(line, 16))};
  *second = {
      _mm512_castsi512_ps(_mm512_and_si512(line, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))))};
}

}  // namespace
}  // namespace espalier::cpu
