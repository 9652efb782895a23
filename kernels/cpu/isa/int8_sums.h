// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa/gemm_types.h"

// Integer dot products: a line of biased weights, 16 outputs by 4 of k (64 bytes), times 4 int8 operands
// of a row. Exact, so that the order within a line is each instruction set's own.
namespace espalier::cpu {
namespace {

#if defined(__AVX512VNNI__)

// Lanes of 32 bits rather than __m512i: g++ 12 keeps arrays of these in registers.
using IntLanes = int32_t __attribute__((vector_size(64)));

struct Int8Sum {
  IntLanes v;
};
struct Int8Line {
  __m512i v;
};
struct Int8Operand {
  __m512i v;
};
#if defined(ESPALIER_SMALL_TILES)
constexpr int32_t kInt8RowSizes[] = {2, 1};
#else
constexpr int32_t kInt8RowSizes[] = {6, 5, 4, 3, 2, 1};
#endif

// `start` for each of the 16 outputs.
ESPALIER_INLINE Int8Sum StartInt8Sum(int32_t start) { return {(IntLanes)_mm512_set1_epi32(start)}; }
ESPALIER_INLINE Int8Line LoadInt8Line(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
ESPALIER_INLINE Int8Operand LoadInt8Operand(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return {_mm512_set1_epi32(four)};
}
ESPALIER_INLINE Int8Sum Int8MulAdd(Int8Line w, Int8Operand a, Int8Sum sum) {
  return {(IntLanes)_mm512_dpbusd_epi32((__m512i)sum.v, w.v, a.v)};
}
// The sums of the 16 outputs, in fp32.
ESPALIER_INLINE Vec FinishInt8Sum(Int8Sum sum) { return {_mm512_cvtepi32_ps((__m512i)sum.v)}; }

#elif defined(__AVX512BW__)

// Neighbouring lanes hold the sums of an output's pairs of k.
struct Int8Sum {
  __m512i v[2];
};
struct Int8Line {
  __m512i v[2];
};
struct Int8Operand {
  __m512i v;
};
constexpr int32_t kInt8RowSizes[] = {4, 2, 1};

ESPALIER_INLINE Int8Sum StartInt8Sum(int32_t start) {
  const __m512i even = _mm512_maskz_set1_epi32(0x5555, start);
  return {{even, even}};
}
ESPALIER_INLINE Int8Line LoadInt8Line(const uint8_t* p) {
  const auto* half = reinterpret_cast<const __m256i*>(p);
  return {
      {_mm512_cvtepu8_epi16(_mm256_loadu_si256(half)), _mm512_cvtepu8_epi16(_mm256_loadu_si256(half + 1))}};
}
ESPALIER_INLINE Int8Operand LoadInt8Operand(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return {_mm512_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)))};
}
ESPALIER_INLINE Int8Sum Int8MulAdd(Int8Line w, Int8Operand a, Int8Sum sum) {
  return {{_mm512_add_epi32(sum.v[0], _mm512_madd_epi16(w.v[0], a.v)),
           _mm512_add_epi32(sum.v[1], _mm512_madd_epi16(w.v[1], a.v))}};
}
ESPALIER_INLINE Vec FinishInt8Sum(Int8Sum sum) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  const __m512i sums = _mm512_add_epi32(_mm512_permutex2var_epi32(sum.v[0], even, sum.v[1]),
                                        _mm512_permutex2var_epi32(sum.v[0], odd, sum.v[1]));
  return {_mm512_cvtepi32_ps(sums)};
}

#elif defined(__AVX2__)

// As above, four outputs to a vector.
struct Int8Sum {
  __m256i v[4];
};
struct Int8Line {
  __m256i v[4];
};
struct Int8Operand {
  __m256i v;
};
constexpr int32_t kInt8RowSizes[] = {2, 1};

ESPALIER_INLINE Int8Sum StartInt8Sum(int32_t start) {
  const __m256i even = _mm256_set_epi32(0, start, 0, start, 0, start, 0, start);
  return {{even, even, even, even}};
}
ESPALIER_INLINE Int8Line LoadInt8Line(const uint8_t* p) {
  const auto* quarter = reinterpret_cast<const __m128i*>(p);
  Int8Line line;
  for (int32_t i = 0; i < 4; ++i) line.v[i] = _mm256_cvtepu8_epi16(_mm_loadu_si128(quarter + i));
  return line;
}
ESPALIER_INLINE Int8Operand LoadInt8Operand(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return {_mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)))};
}
ESPALIER_INLINE Int8Sum Int8MulAdd(Int8Line w, Int8Operand a, Int8Sum sum) {
  for (int32_t i = 0; i < 4; ++i) {
    sum.v[i] = _mm256_add_epi32(sum.v[i], _mm256_madd_epi16(w.v[i], a.v));
  }
  return sum;
}
ESPALIER_INLINE __m256 FinishInt8Half(__m256i first, __m256i second) {
  const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xD8);
  return _mm256_cvtepi32_ps(sums);
}
ESPALIER_INLINE Vec FinishInt8Sum(Int8Sum sum) {
  return {FinishInt8Half(sum.v[0], sum.v[1]), FinishInt8Half(sum.v[2], sum.v[3])};
}

#else

struct Int8Sum {
  int32_t v[kLanes];
};
struct Int8Line {
  const uint8_t* p;
};
struct Int8Operand {
  int32_t v[4];
};
constexpr int32_t kInt8RowSizes[] = {2, 1};

ESPALIER_INLINE Int8Sum StartInt8Sum(int32_t start) {
  Int8Sum sum;
  for (int32_t n = 0; n < kLanes; ++n) sum.v[n] = start;
  return sum;
}
ESPALIER_INLINE Int8Line LoadInt8Line(const uint8_t* p) { return {p}; }
ESPALIER_INLINE Int8Operand LoadInt8Operand(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
ESPALIER_INLINE Int8Sum Int8MulAdd(Int8Line w, Int8Operand a, Int8Sum sum) {
  for (int32_t n = 0; n < kLanes; ++n) {
    for (int32_t i = 0; i < 4; ++i) sum.v[n] += int32_t{w.p[4 * n + i]} * a.v[i];
  }
  return sum;
}
ESPALIER_INLINE Vec FinishInt8Sum(Int8Sum sum) {
  float values[kLanes];
  for (int32_t n = 0; n < kLanes; ++n) values[n] = static_cast<float>(sum.v[n]);
  return Load(values);
}

#endif

// Sixteen integers in [-128, 127] as int8.
ESPALIER_INLINE void StoreInt8(int8_t* p, Vec v) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v.v));
  __builtin_memcpy(p, &bytes, sizeof(bytes));
#else
  float values[kLanes];
  Store(values, v);
  for (int32_t i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(values[i]);
#endif
}

}  // namespace
}  // namespace espalier::cpu
