#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace espalier {

// Cosines, then sines, of the angles position * inv_freq[i]: `out` is [2, inv_freq.size()]. The angle is
// rounded to fp32 before the sine, as PyTorch's models do.
inline void RotaryAngles(std::span<const float> inv_freq, int64_t position, float* out) {
  const size_t half = inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const auto angle = static_cast<double>(static_cast<float>(position) * inv_freq[i]);
    out[i] = static_cast<float>(std::cos(angle));
    out[half + i] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace espalier
