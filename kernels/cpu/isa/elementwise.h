// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/gemm_types.h"

namespace espalier::cpu {
namespace {

ESPALIER_INLINE Vec NormScale(Vec squares, float epsilon, int64_t columns) {
  const float mean = ReduceAdd(squares) / static_cast<float>(columns);
  return Set1(1.0F / __builtin_sqrtf(mean + epsilon));
}

void RmsNormRow(const float* in, const float* weight, float epsilon, int64_t columns, void* out,
                bool out_bf16) {
  Vec squares = Set1(0.0F);
  for (int64_t i = 0; i < columns; i += kLanes) {
    const Vec x = Load(in + i);
    squares = MulAdd(x, x, squares);
  }
  const Vec scale = NormScale(squares, epsilon, columns);
  for (int64_t i = 0; i < columns; i += kLanes) {
    StoreOut(out, i, out_bf16, Mul(Mul(Load(in + i), scale), Load(weight + i)));
  }
}

ESPALIER_INLINE Vec SiluTimes(Vec gate, Vec up) {
  const Vec exponent = Min(Mul(gate, Set1(-1.44269504F)), Set1(126.0F));
  return Mul(Div(gate, Add(Set1(1.0F), Exp2(exponent))), up);
}

void SwiGluRow(const float* in, int64_t columns, void* out, bool out_bf16) {
  const float* gate = in;
  const float* up = in + columns;
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    StoreOut(out, i, out_bf16, SiluTimes(Load(gate + i), Load(up + i)));
  }
  if (i < columns) {
    float last[2][kLanes] = {};
    for (int64_t j = i; j < columns; ++j) {
      last[0][j - i] = gate[j];
      last[1][j - i] = up[j];
    }
    StoreOut(out, i, out_bf16, SiluTimes(Load(last[0]), Load(last[1])));
  }
}

// RmsNormRow of a head in place: behind a head lies the next one, not zeros.
void NormHead(float* head, const float* weight, float epsilon, int32_t head_dim) {
  const int32_t whole = head_dim / kLanes * kLanes;
  float last[kLanes] = {};
  for (int32_t i = whole; i < head_dim; ++i) last[i - whole] = head[i];
  Vec squares = Mul(Load(last), Load(last));
  for (int32_t i = 0; i < whole; i += kLanes) squares = MulAdd(Load(head + i), Load(head + i), squares);
  const Vec scale = NormScale(squares, epsilon, head_dim);
  for (int32_t i = 0; i < whole; i += kLanes) {
    Store(head + i, Mul(Mul(Load(head + i), scale), Load(weight + i)));
  }
  if (whole == head_dim) return;
  Store(last, Mul(Mul(Load(last), scale), Load(weight + whole)));
  for (int32_t i = whole; i < head_dim; ++i) head[i] = last[i - whole];
}

void RotateHead(float* head, const float* cosine, const float* sine, int32_t half) {
  for (int32_t i = 0; i < half; ++i) {
    const float x = head[i];
    const float y = head[i + half];
    head[i] = x * cosine[i] - y * sine[i];
    head[i + half] = y * cosine[i] + x * sine[i];
  }
}

template <typename T>
ESPALIER_INLINE T ToKv(float value);
template <>
ESPALIER_INLINE float ToKv<float>(float value) {
  return value;
}
template <>
ESPALIER_INLINE bf16_t ToKv<bf16_t>(float value) {
  return RoundToBf16(value);
}

// Scatters one token's K and V of one head into its block (layout: KvLayer).
template <typename T, int32_t kPair>
void StoreKv(const float* k, const float* v, int32_t head_dim, const KvLayer& kv, int64_t block, int32_t slot,
             int32_t head) {
  T* k_block = static_cast<T*>(kv.data) + head * kv.head_stride + block * kv.block_stride;
  T* v_block = k_block + static_cast<int64_t>(kv.stored_tokens) * kv.stored_dim;
  T* k_token = k_block + slot / kLanes * kLanes * kv.stored_dim + slot % kLanes * kPair;
  for (int32_t d = 0; d < head_dim; d += kPair) {
    for (int32_t i = 0; i < kPair; ++i) k_token[d * kLanes + i] = ToKv<T>(k[d + i]);
  }
  T* v_token = v_block + slot / kPair * kPair * kLanes + slot % kPair;
  int32_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    T* panel = v_token + static_cast<int64_t>(d) * kv.stored_tokens;
    for (int32_t i = 0; i < kLanes; ++i) panel[i * kPair] = ToKv<T>(v[d + i]);
  }
  T* panel = v_token + static_cast<int64_t>(d) * kv.stored_tokens;
  for (int32_t i = 0; i < head_dim - d; ++i) panel[i * kPair] = ToKv<T>(v[d + i]);
}

void RotaryAndStoreRow(const RotaryArgs& args) {
  const int32_t half = args.head_dim / 2;
  for (int32_t head = 0; head < args.query_heads + args.kv_heads; ++head) {
    float* values = args.qkv + static_cast<int64_t>(head) * args.head_dim;
    const float* norm = head < args.query_heads ? args.query_norm : args.key_norm;
    if (norm != nullptr) NormHead(values, norm, args.epsilon, args.head_dim);
    if (args.cosine != nullptr) RotateHead(values, args.cosine, args.sine, half);
  }
  const float* k = args.qkv + static_cast<int64_t>(args.query_heads) * args.head_dim;
  const float* v = k + static_cast<int64_t>(args.kv_heads) * args.head_dim;
  for (int32_t head = 0; head < args.kv_heads; ++head) {
    const int64_t offset = static_cast<int64_t>(head) * args.head_dim;
    if (args.kv_dtype == DType::kFloat32) {
      StoreKv<float, 1>(k + offset, v + offset, args.head_dim, args.kv, args.block, args.kv_slot, head);
    } else {
      StoreKv<bf16_t, 2>(k + offset, v + offset, args.head_dim, args.kv, args.block, args.kv_slot, head);
    }
  }
}

}  // namespace
}  // namespace espalier::cpu
