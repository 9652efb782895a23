#pragma once

#include <bit>
#include <cstdint>

namespace espalier {

// exp(x) for x <= 0 in fp32, relative error under 3e-7; 0 for x <= -87, -infinity and NaN. Plain arithmetic
// without branches or calls, so that loops over it are vectorised.
constexpr float ExpNonPositive(float x) {
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;  // 9 bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float clamped = x > -87.0F ? x : -87.0F;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  // Taylor's series of exp on [-ln 2 / 2, ln 2 / 2]; the first term left out is under 6e-8.
  float p = 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127U;
  const float result = p * std::bit_cast<float>(exponent << 23);
  return x > -87.0F ? result : 0.0F;
}

}  // namespace espalier
