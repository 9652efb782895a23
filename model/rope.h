#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace espalier {

// Angle per position of each pair (i, i + head_dim / 2): [head_dim / 2] fp32, in the order of operations of
// transformers, so that they agree to the last bits. RoFormer (Su et al. 2021), section 3.4; linear: Chen et
// al. 2023, "Extending Context Window"; llama3: the Llama 3.1 release, interpolation by wavelength;
// dynamic: as default, which it is within original_max_positions.
std::vector<float> RotaryInverseFrequencies(const RopeConfig& rope, int32_t head_dim);

}  // namespace espalier
