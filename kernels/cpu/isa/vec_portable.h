// For the kernels_*.cpp of its instruction set only: everything has internal linkage.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cpu/isa/inline.h"

namespace espalier::cpu {
namespace {

// Sixteen floats as four vectors of four, which every baseline has.
struct Vec {
  using Quad = float __attribute__((vector_size(16)));
  using IntQuad = int32_t __attribute__((vector_size(16)));
  Quad q[4];
};

// Rows that a register tile can have, descending, and its panels.
constexpr int32_t kRowSizes[] = {2, 1};
constexpr int32_t kTilePanels = 1;

ESPALIER_INLINE Vec Set1(float x) {
  const Vec::Quad quad = {x, x, x, x};
  return {{quad, quad, quad, quad}};
}
ESPALIER_INLINE Vec Load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
ESPALIER_INLINE void Store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
ESPALIER_INLINE Vec Add(Vec a, Vec b) {
  return {{a.q[0] + b.q[0], a.q[1] + b.q[1], a.q[2] + b.q[2], a.q[3] + b.q[3]}};
}
ESPALIER_INLINE Vec Sub(Vec a, Vec b) {
  return {{a.q[0] - b.q[0], a.q[1] - b.q[1], a.q[2] - b.q[2], a.q[3] - b.q[3]}};
}
ESPALIER_INLINE Vec Mul(Vec a, Vec b) {
  return {{a.q[0] * b.q[0], a.q[1] * b.q[1], a.q[2] * b.q[2], a.q[3] * b.q[3]}};
}
ESPALIER_INLINE Vec Div(Vec a, Vec b) {
  return {{a.q[0] / b.q[0], a.q[1] / b.q[1], a.q[2] / b.q[2], a.q[3] / b.q[3]}};
}
ESPALIER_INLINE Vec MulAdd(Vec a, Vec b, Vec c) { return Add(Mul(a, b), c); }
ESPALIER_INLINE Vec Max(Vec a, Vec b) {
  Vec v;
  for (int i = 0; i < 4; ++i) v.q[i] = a.q[i] > b.q[i] ? a.q[i] : b.q[i];
  return v;
}
ESPALIER_INLINE Vec Min(Vec a, Vec b) {
  Vec v;
  for (int i = 0; i < 4; ++i) v.q[i] = a.q[i] < b.q[i] ? a.q[i] : b.q[i];
  return v;
}
// Nearest integer for |v| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
ESPALIER_INLINE Vec Round(Vec v) {
  const Vec magic = Set1(12582912.0F);
  return Sub(Add(v, magic), magic);
}
// 2^n for integers -127 <= n <= 127, -127 giving zero.
ESPALIER_INLINE Vec PowerOfTwo(Vec n) {
  const Vec biased = Add(n, Set1(12582912.0F + 127.0F));
  Vec v;
  for (int i = 0; i < 4; ++i) v.q[i] = (Vec::Quad)((Vec::IntQuad)biased.q[i] << 23);
  return v;
}
ESPALIER_INLINE float ReduceMax(Vec v) {
  const Vec::Quad a = v.q[0] > v.q[1] ? v.q[0] : v.q[1];
  const Vec::Quad b = v.q[2] > v.q[3] ? v.q[2] : v.q[3];
  const Vec::Quad c = a > b ? a : b;
  const float x = c[0] > c[1] ? c[0] : c[1];
  const float y = c[2] > c[3] ? c[2] : c[3];
  return x > y ? x : y;
}
ESPALIER_INLINE float ReduceAdd(Vec v) {
  const Vec::Quad a = (v.q[0] + v.q[1]) + (v.q[2] + v.q[3]);
  return (a[0] + a[1]) + (a[2] + a[3]);
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
  Vec line = Load(reinterpret_cast<const float*>(p));
  for (int i = 0; i < 4; ++i) {
    const Vec::IntQuad bits = (Vec::IntQuad)line.q[i];
    first->q[i] = (Vec::Quad)(bits << 16);
    second->q[i] = (Vec::Quad)(bits & static_cast<int32_t>(0xffff0000));
  }
}

}  // namespace
}  // namespace espalier::cpu
