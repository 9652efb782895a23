#include "engine/prefix_index.h"

#include "kernels/base/result.h"

namespace espalier {

namespace {

// Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t PrefixIndex::Key(int64_t origin, std::span<const int32_t> first_block) {
  uint64_t key = Mix(static_cast<uint64_t>(origin) + 0x9e3779b97f4a7c15U);
  for (const int32_t token : first_block) key = Mix(key ^ static_cast<uint64_t>(token)) + 0x9e3779b97f4a7c15U;
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
