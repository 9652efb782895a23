// For kernels_amx*.cpp only: everything has internal linkage.
#pragma once

#include <cstdint>

namespace espalier::cpu {
namespace {

// What LDTILECFG reads: the shape of each of the eight tiles (Intel 64 and IA-32 Architectures Software
// Developer's Manual, volume 1, chapter 18).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // at most 64
  uint8_t rows[16] = {};        // at most 16
};
static_assert(sizeof(TileShapes) == 64);

}  // namespace
}  // namespace espalier::cpu
