#pragma once

#include <cstdint>

namespace espalier {

// 2^64 divided by the golden ratio, odd: steps of it spread over all 64 bits.
inline constexpr uint64_t kGoldenStep = 0x9E3779B97F4A7C15U;

// Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of x changes about half of the
// result's.
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

}  // namespace espalier
