#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace espalier {

// Widens `count` little-endian elements of type `type` to fp32. `source` need not be aligned.
void ConvertToFloat(const void* source, DType type, int64_t count, float* destination);

}  // namespace espalier
