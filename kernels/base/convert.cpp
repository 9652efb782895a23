#include "kernels/base/convert.h"

#include <cstring>

#include "kernels/base/result.h"

namespace espalier {

namespace {

template <typename Widen>
void ConvertHalves(const unsigned char* source, int64_t count, float* destination, Widen widen) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, source + i * 2, 2);
    destination[i] = widen(bits);
  }
}

}  // namespace

void ConvertToFloat(const void* source, DType type, int64_t count, float* destination) {
  if (count == 0) return;
  const auto* bytes = static_cast<const unsigned char*>(source);
  switch (type) {
    case DType::kFloat32:
      std::memcpy(destination, bytes, static_cast<size_t>(count) * 4);
      return;
    case DType::kBFloat16:
      ConvertHalves(bytes, count, destination, [](uint16_t bits) { return ToFloat(bits); });
      return;
    case DType::kFloat16:
      ConvertHalves(bytes, count, destination, [](uint16_t bits) { return HalfToFloat(bits); });
      return;
  }
  ESPALIER_CHECK_MSG(false, "unknown element type");
}

}  // namespace espalier
