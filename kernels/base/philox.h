#pragma once

#include <array>
#include <cstdint>

namespace espalier {

// Philox4x32-10, a counter-based random number generator: the same key and counter give the same four words
// on every machine, in any order of calls. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011, section 3.3.
constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

// Uniform in [0, 1), 53 random bits: number `position` of the random stream `stream`.
constexpr double UniformOf(uint64_t stream, uint32_t position) {
  const auto words =
      Philox4x32({position, 0, 0, 0}, {static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)});
  const uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace espalier
