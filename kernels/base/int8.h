#pragma once

#include <cstdint>

namespace espalier {

// GEMM with int8 weights. A row of weights (an output) is q * scale with q in [-127, 127] and one fp32
// scale; the operands of a row of a step are the same, with a scale for each group of kInt8Group values of k,
// so that one large value coarsens its own group alone. An element of C is, group after group in ascending k,
// C += float(sum of q * q) * operand scale * weight scale: sums of a group are exact integers, whatever their
// order.
inline constexpr int32_t kInt8Group = 128;
inline constexpr float kInt8Max = 127.0F;
// Values that are all smaller than this become zeros: the inverse of their scale could overflow.
inline constexpr float kInt8Min = 1e-30F;

// q = values * (127 / largest), rounded to nearest, ties to even; returns the scale, largest / 127, 0 where
// all q are 0. Not finite where a value is not.
float QuantizeInt8(const float* values, int64_t count, int8_t* q);

// What to say of a matrix with such a value.
inline constexpr const char* kNotFiniteInt8 = "int8 cannot hold a value that is infinite or not a number";

}  // namespace espalier
