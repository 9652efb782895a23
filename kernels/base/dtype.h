#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace espalier {

// Element types of weights, KV and activations.
enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16 };

constexpr size_t SizeOf(DType type) { return type == DType::kFloat32 ? 4 : 2; }
constexpr const char* Name(DType type) {
  switch (type) {
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "unknown";
}

// What weights of MatMul are stored as.
enum class WeightType : uint8_t {
  kDType,  // in the DType that everything else has
  kInt8,   // kernels/base/int8.h
};

// As settings have it: "dtype" or "int8".
constexpr const char* Name(WeightType type) { return type == WeightType::kInt8 ? "int8" : "dtype"; }
// What the weights are: "int8", or the name of `dtype`.
constexpr const char* Name(WeightType type, DType dtype) {
  return type == WeightType::kInt8 ? "int8" : Name(dtype);
}

// bfloat16: the upper half of an IEEE-754 binary32.
using bf16_t = uint16_t;

constexpr float ToFloat(bf16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
constexpr bf16_t ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<bf16_t>((bits >> 16) | 0x40U);
  return static_cast<bf16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// IEEE-754 binary16, kept as its bits.
constexpr float HalfToFloat(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000U) << 16;
  const uint32_t magnitude = value & 0x7fffU;
  if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  // Moving the exponent by a multiplication makes subnormal halves exact too.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

// Round to nearest, ties to even; too large becomes infinity; NaN stays NaN.
constexpr uint16_t ToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x38800000U) {
    // Subnormal result: adding 0.5 leaves the rounded multiple of 2^-24 in the low mantissa bits.
    const uint32_t rounded = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000U));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

}  // namespace espalier
