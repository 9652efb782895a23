#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace espalier {

// Values that no weight may have.
struct UnfitValues {
  int64_t not_finite = 0;  // NaN and infinite
  int64_t too_large = 0;   // finite, but infinite in the type in which they are kept
  int64_t first = -1;      // index of the first of them

  bool any() const { return not_finite + too_large > 0; }
  // Takes in those of a piece that begins at element `offset`; pieces may come in any order.
  void Add(const UnfitValues& piece, int64_t offset);
};

// Looks through `count` little-endian elements of type `type`, to be kept as `kept`. `source` need not be
// aligned.
UnfitValues FindUnfit(const void* source, DType type, int64_t count, DType kept);

}  // namespace espalier
