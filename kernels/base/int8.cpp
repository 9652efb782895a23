#include "kernels/base/int8.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace espalier {

float QuantizeInt8(const float* values, int64_t count, int8_t* q) {
  float largest = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(values[i]));
    finite = finite && std::isfinite(values[i]);
  }
  if (!finite || largest < kInt8Min) {
    std::fill_n(q, count, int8_t{0});
    return finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = kInt8Max / largest;
  for (int64_t i = 0; i < count; ++i) q[i] = static_cast<int8_t>(std::nearbyint(values[i] * inverse));
  return largest / kInt8Max;
}

}  // namespace espalier
