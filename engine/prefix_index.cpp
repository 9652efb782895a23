#include "engine/prefix_index.h"

#include "kernels/base/mix.h"
#include "kernels/base/result.h"

namespace espalier {

uint64_t PrefixIndex::Key(int64_t origin, std::span<const int32_t> first_block) {
  uint64_t key = Mix(static_cast<uint64_t>(origin) + kGoldenStep);
  for (const int32_t token : first_block) key = Mix(key ^ static_cast<uint64_t>(token)) + kGoldenStep;
  return key;
}

void PrefixIndex::Erase(uint64_t key, int32_t node) {
  const auto [begin, end] = edges_.equal_range(key);
  for (auto it = begin; it != end; ++it) {
    if (it->second == node) {
      edges_.erase(it);
      return;
    }
  }
  ESPALIER_CHECK(false);
}

}  // namespace espalier
