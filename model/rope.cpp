#include "model/rope.h"

#include <cmath>
#include <numbers>

namespace espalier {

namespace {

// Long waves are slowed by `factor`, short ones kept, those between blended linearly in context / wavelength.
float Llama3Frequency(float frequency, const RopeConfig& rope) {
  const double context = rope.original_max_positions;
  const auto longest_kept = static_cast<float>(context / rope.high_freq_factor);
  const auto shortest_scaled = static_cast<float>(context / rope.low_freq_factor);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / frequency;
  const float scaled = frequency / static_cast<float>(rope.factor);
  if (wavelength < longest_kept) return frequency;
  if (wavelength > shortest_scaled) return scaled;
  const float smooth = (static_cast<float>(context) / wavelength - static_cast<float>(rope.low_freq_factor)) /
                       static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0F - smooth) * frequency / static_cast<float>(rope.factor) + smooth * frequency;
}

}  // namespace

std::vector<float> RotaryInverseFrequencies(const RopeConfig& rope, int32_t head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  const auto theta = static_cast<float>(rope.theta);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float frequency = 1.0F / std::pow(theta, exponent);
    switch (rope.type) {
      case RopeType::kDefault:
      case RopeType::kDynamic:
        frequencies[i] = frequency;
        break;
      case RopeType::kLinear:
        frequencies[i] = frequency / static_cast<float>(rope.factor);
        break;
      case RopeType::kLlama3:
        frequencies[i] = Llama3Frequency(frequency, rope);
        break;
    }
  }
  return frequencies;
}

}  // namespace espalier
