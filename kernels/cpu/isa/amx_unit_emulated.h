// For kernels_amx_emulated.cpp only: everything has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/isa/tile_shapes.h"
#include "kernels/cpu/isa/vec.h"

namespace espalier::cpu {
namespace {

struct EmulatedTile {
  int32_t rows = 0;
  int32_t row_bytes = 0;
  alignas(64) uint8_t data[16][64] = {};
};

// The tiles of AMX in memory, with the unit's own arithmetic: kernels written for it run, bit for bit, on
// processors without it. Slow; for tests. An instruction that AMX would refuse ends the program.
struct AmxUnit {
  static inline thread_local EmulatedTile tiles[8];

  static void Expect(bool legal) {
    if (!legal) __builtin_trap();
  }

  static void Configure(const TileShapes& shapes) {
    Expect(shapes.palette == 1);
    for (int32_t i = 0; i < 8; ++i) {
      Expect(shapes.rows[i] <= 16 && shapes.row_bytes[i] <= 64);
      tiles[i] = EmulatedTile();
      tiles[i].rows = shapes.rows[i];
      tiles[i].row_bytes = shapes.row_bytes[i];
    }
  }
  static void Release() {
    for (EmulatedTile& tile : tiles) tile = EmulatedTile();
  }

  template <int32_t kTile>
  static EmulatedTile& Configured() {
    Expect(tiles[kTile].rows > 0 && tiles[kTile].row_bytes > 0);
    return tiles[kTile];
  }
  template <int32_t kTile>
  static void Zero() {
    EmulatedTile& tile = Configured<kTile>();
    __builtin_memset(tile.data, 0, sizeof(tile.data));
  }
  template <int32_t kTile>
  static void Load(const void* p, int64_t stride) {
    Zero<kTile>();
    EmulatedTile& tile = tiles[kTile];
    for (int32_t row = 0; row < tile.rows; ++row) {
      __builtin_memcpy(tile.data[row], static_cast<const uint8_t*>(p) + row * stride,
                       static_cast<uint64_t>(tile.row_bytes));
    }
  }
  template <int32_t kTile>
  static void Store(void* p, int64_t stride) {
    const EmulatedTile& tile = Configured<kTile>();
    for (int32_t row = 0; row < tile.rows; ++row) {
      __builtin_memcpy(static_cast<uint8_t*>(p) + row * stride, tile.data[row],
                       static_cast<uint64_t>(tile.row_bytes));
    }
  }

  template <int32_t kC, int32_t kA, int32_t kB>
  static void ExpectDot() {
    const EmulatedTile& c = Configured<kC>();
    const EmulatedTile& a = Configured<kA>();
    const EmulatedTile& b = Configured<kB>();
    Expect(kC != kA && kC != kB && kA != kB);
    Expect(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows && c.row_bytes == 64);
  }
  // Two chains of fused multiply-adds from zero, of the even and of the odd k; then their sum is added to C.
  // Denormals are zeros, of operands and of results (the manual's TDPBF16PS).
  template <int32_t kC, int32_t kA, int32_t kB>
  static void DotBf16() {
    ExpectDot<kC, kA, kB>();
    constexpr uint32_t kDenormalsAreZeros = 0x8040;
    const uint32_t mode = _mm_getcsr();
    _mm_setcsr(mode | kDenormalsAreZeros);
    for (int32_t row = 0; row < tiles[kA].rows; ++row) {
      Vec even = Set1(0.0F);
      Vec odd = Set1(0.0F);
      for (int32_t k = 0; k < tiles[kB].rows; ++k) {
        uint32_t pair;
        __builtin_memcpy(&pair, tiles[kA].data[row] + 4 * k, sizeof(pair));
        Vec first;
        Vec second;
        SplitPairs(reinterpret_cast<const bf16_t*>(tiles[kB].data[k]), &first, &second);
        even = MulAdd(Set1(__builtin_bit_cast(float, pair << 16)), first, even);
        odd = MulAdd(Set1(__builtin_bit_cast(float, pair & 0xffff0000U)), second, odd);
      }
      auto* c = reinterpret_cast<float*>(tiles[kC].data[row]);
      cpu::Store(c, Add(cpu::Load(c), Add(even, odd)));
    }
    _mm_setcsr(mode);
  }
  template <int32_t kC, int32_t kA, int32_t kB>
  static void DotInt8() {
    ExpectDot<kC, kA, kB>();
    for (int32_t row = 0; row < tiles[kA].rows; ++row) {
      for (int32_t n = 0; n < 16; ++n) {
        int32_t sum;
        __builtin_memcpy(&sum, tiles[kC].data[row] + 4 * n, sizeof(sum));
        for (int32_t k = 0; k < tiles[kA].row_bytes; ++k) {
          sum += static_cast<int8_t>(tiles[kA].data[row][k]) * tiles[kB].data[k / 4][4 * n + k % 4];
        }
        __builtin_memcpy(tiles[kC].data[row] + 4 * n, &sum, sizeof(sum));
      }
    }
  }
};

}  // namespace
}  // namespace espalier::cpu
