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
  __m256 lo;
  __m256 hi;
};

// Rows that a register tile can have, descending, and its panels.
#ifdef ESPALIER_SMALL_TILES
constexpr int32_t kRowSizes[] = {2, 1};  // instrumented register tiles take minutes to compile
#else
constexpr int32_t kRowSizes[] = {4, 2, 1};
#endif
constexpr int32_t kTilePanels = 1;

ESPALIER_INLINE Vec Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ESPALIER_INLINE Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ESPALIER_INLINE void Store(float* p, Vec v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
ESPALIER_INLINE Vec Add(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec Sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec Mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec Div(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec Min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
ESPALIER_INLINE Vec MulAdd(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
ESPALIER_INLINE Vec Round(Vec v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(v.lo, kNearest), _mm256_round_ps(v.hi, kNearest)};
}
ESPALIER_INLINE __m256 PowerOfTwoHalf(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
// 2^n for integers -127 <= n <= 127, -127 giving zero.
ESPALIER_INLINE Vec PowerOfTwo(Vec n) { return {PowerOfTwoHalf(n.lo), PowerOfTwoHalf(n.hi)}; }
ESPALIER_INLINE float ReduceMax(Vec v) {
  const __m256 a = _mm256_max_ps(v.lo, v.hi);
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
ESPALIER_INLINE float ReduceAdd(Vec v) {
  const __m256 a = _mm256_add_ps(v.lo, v.hi);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
// Four at once, a result each.
ESPALIER_INLINE void ReduceMaxFour(const Vec (&v)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = ReduceMax(v[i]);
}
ESPALIER_INLINE void ReduceAddFour(const Vec (&v)[4], float* out) {
  for (int i = 0; i < 4; ++i) out[i] = ReduceAdd(v[i]);
}
// Splits 16 pairs of bf16 into the first and the second of each pair.
ESPALIER_INLINE void SplitPairs(const bf16_t* p, Vec* first, Vec* second) {
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i upper = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
  *first = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  *second = {_mm256_castsi256_ps(_mm256_and_si256(lo, upper)),
             _mm256_castsi256_ps(_mm256_and_si256(hi, upper))};
}

}  // namespace
}  // namespace espalier::cpu
