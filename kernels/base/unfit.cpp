#include "kernels/base/unfit.h"

#include <cstring>
#include <limits>

namespace espalier {

namespace {

// Without their signs floating-point numbers are ordered as their bits are: values that are not finite are
// all bits from `infinity` on, those that round to infinity all from `too_large` on.
struct Limits {
  uint32_t infinity;
  uint32_t too_large;
};

Limits LimitsOf(DType type, DType kept) {
  switch (type) {
    case DType::kFloat32:
      // Halfway between the largest value of the narrower type and the next power of two.
      if (kept == DType::kBFloat16) return {0x7f800000U, 0x7f7f8000U};
      if (kept == DType::kFloat16) return {0x7f800000U, 0x477ff000U};
      return {0x7f800000U, 0x7f800000U};
    case DType::kBFloat16:
      if (kept == DType::kFloat16) return {0x7f80U, 0x4780U};
      return {0x7f80U, 0x7f80U};
    case DType::kFloat16:
      return {0x7c00U, 0x7c00U};
  }
  return {0, 0};
}

template <typename Signed>
Signed Magnitude(const unsigned char* source, int64_t index) {
  Signed bits = 0;
  std::memcpy(&bits, source + index * static_cast<int64_t>(sizeof(Signed)), sizeof(Signed));
  return static_cast<Signed>(bits & std::numeric_limits<Signed>::max());
}

template <typename Signed>
UnfitValues Find(const unsigned char* source, int64_t count, const Limits& limits) {
  // A block at a time, without branches, so that the compiler makes it vectors: nearly all blocks are sound.
  constexpr int64_t kBlock = 256;
  const auto min = static_cast<Signed>(limits.too_large);
  UnfitValues found;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Signed any = 0;
    if (end - begin == kBlock) {
      for (int64_t i = 0; i < kBlock; ++i) {
        any = static_cast<Signed>(any | -static_cast<Signed>(Magnitude<Signed>(source, begin + i) >= min));
      }
      if (any == 0) continue;
    }
    for (int64_t i = begin; i < end; ++i) {
      const auto magnitude = static_cast<uint32_t>(Magnitude<Signed>(source, i));
      if (magnitude < limits.too_large) continue;
      ++(magnitude >= limits.infinity ? found.not_finite : found.too_large);
      if (found.first < 0) found.first = i;
    }
  }
  return found;
}

}  // namespace

void UnfitValues::Add(const UnfitValues& piece, int64_t offset) {
  not_finite += piece.not_finite;
  too_large += piece.too_large;
  if (piece.first >= 0 && (first < 0 || offset + piece.first < first)) first = offset + piece.first;
}

UnfitValues FindUnfit(const void* source, DType type, int64_t count, DType kept) {
  const auto* bytes = static_cast<const unsigned char*>(source);
  const Limits limits = LimitsOf(type, kept);
  return type == DType::kFloat32 ? Find<int32_t>(bytes, count, limits) : Find<int16_t>(bytes, count, limits);
}

}  // namespace espalier
