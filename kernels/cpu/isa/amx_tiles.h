// For kernels_amx*.cpp only, which name the unit in ESPALIER_AMX_UNIT: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/register_tiles.h"
#include ESPALIER_AMX_UNIT

// GEMM by the AMX unit. The lines of packed weights, K and V are its B as they lie: 16 lines a tile. Up
// to four tiles of C, of 16 outputs each, stand above one another: 64 rows, which each tile of B passes once.
// An element takes in the sums of 32 k (of a group of lines) one after the other, in ascending k; the unit
// itself adds those up in one order, whatever the tile's rows are. So here, too, a row has the same bits
// alone and in a batch.
namespace espalier::cpu {
namespace {

constexpr int32_t kTileHeight = 16;
constexpr int32_t kMaxTiles = 4;
constexpr int32_t kTileLines = 16;
constexpr int32_t kLineBytes = 64;

// Tiles of C are numbered from 0 on.
enum TileNumber : int32_t { kOperandTile = 4, kHalfOperandTile, kWeightTile, kHalfWeightTile };

// Height of the tiles of C that this thread's unit is set up for; 0 if it is not.
thread_local int32_t configured_height = 0;

ESPALIER_INLINE void ConfigureTiles(int32_t height) {
  if (height == configured_height) return;
  TileShapes shapes;
  const auto set = [&](int32_t tile, int32_t rows, int32_t row_bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  };
  for (int32_t tile = 0; tile < kMaxTiles; ++tile) set(tile, height, kLineBytes);
  set(kOperandTile, height, kLineBytes);
  set(kHalfOperandTile, height, kLineBytes / 2);
  set(kWeightTile, kTileLines, kLineBytes);
  set(kHalfWeightTile, kTileLines / 2, kLineBytes);
  AmxUnit::Configure(shapes);
  configured_height = height;
}

// Tiles that are in use make every switch of threads cost more.
void ReleaseTiles() {
  if (configured_height == 0) return;
  AmxUnit::Release();
  configured_height = 0;
}

// Rows that are multiplied in one go: by tiles of one height, the last of which ends with the last row and
// may share rows with the one before.
struct TileStack {
  int32_t rows;
  int32_t tiles;
  int32_t height;

  // The next of `rows` rows: as many at a time as make all stacks as equal as can be.
  static TileStack Of(int32_t rows) {
    TileStack stack;
    stack.rows = TilesOf(rows, TilesOf(rows, kMaxTiles * kTileHeight));
    stack.tiles = TilesOf(stack.rows, kTileHeight);
    stack.height = TilesOf(stack.rows, stack.tiles);
    return stack;
  }
  int32_t FirstRow(int32_t tile) const {
    return tile * height < rows - height ? tile * height : rows - height;
  }
};

// body.operator()<tile>() for each tile.
template <int32_t kTiles, typename Body>
ESPALIER_INLINE void ForTiles(Body body) {
  body.template operator()<0>();
  if constexpr (kTiles > 1) body.template operator()<1>();
  if constexpr (kTiles > 2) body.template operator()<2>();
  if constexpr (kTiles > 3) body.template operator()<3>();
}

template <typename P, int32_t kC, int32_t kA, int32_t kB>
ESPALIER_INLINE void GemmTiles() {
  if constexpr (sizeof(typename P::Weight) == 1) {
    AmxUnit::DotInt8<kC, kA, kB>();
  } else {
    AmxUnit::DotBf16<kC, kA, kB>();
  }
}

// The tiles of C take in so many lines of a panel. Between the instructions lines are prefetched: as many
// as are read, from `prefetch` on, if it is not null.
template <int32_t kTiles, int32_t kLines, typename P>
ESPALIER_INLINE void GemmLines(const char* const (&a)[kTiles], int64_t offset, int64_t a_stride,
                               const char* weights, const char* prefetch) {
  constexpr bool kHalf = kLines < kTileLines;
  constexpr int32_t kA = kHalf ? kHalfOperandTile : kOperandTile;
  constexpr int32_t kB = kHalf ? kHalfWeightTile : kWeightTile;
  AmxUnit::Load<kB>(weights, kLineBytes);
  ForTiles<kTiles>([&]<int32_t kTile>() __attribute__((always_inline)) {
    AmxUnit::Load<kA>(a[kTile] + offset, a_stride);
    GemmTiles<P, kTile, kA, kB>();
    if (prefetch == nullptr) return;
    constexpr int32_t kBegin = kLines * kTile / kTiles;
    constexpr int32_t kEnd = kLines * (kTile + 1) / kTiles;
#pragma GCC unroll 16
    for (int32_t line = kBegin; line < kEnd; ++line) __builtin_prefetch(prefetch + line * kLineBytes, 0, 3);
  });
}

// The tiles of C take in a piece of a panel; `a` is where their first rows of operands begin.
template <int32_t kTiles, typename P>
ESPALIER_INLINE void GemmPanel(const char* const (&a)[kTiles], int64_t a_stride, const Piece<P>& piece,
                               int32_t panel) {
  const auto* weights = reinterpret_cast<const char*>(piece.weights[panel]);
  const bool prefetches = piece.prefetch != reinterpret_cast<const char*>(piece.weights[0]);
  const char* prefetch = prefetches ? piece.prefetch : nullptr;
  int64_t offset = piece.operand_offset * static_cast<int64_t>(sizeof(typename P::Operand));
  int32_t line = 0;
  for (; line + kTileLines <= piece.lines; line += kTileLines) {
    GemmLines<kTiles, kTileLines, P>(a, offset, a_stride, weights, prefetch);
    weights += kTileLines * kLineBytes;
    offset += kLineBytes;
    if (prefetches) prefetch += kTileLines * kLineBytes;
  }
  if (line < piece.lines) GemmLines<kTiles, kTileLines / 2, P>(a, offset, a_stride, weights, prefetch);
}

// One panel of a stack, added to C or overwriting it.
template <int32_t kTiles>
__attribute__((noinline, noclone)) void GemmStack(const TileRows<AmxGemm>& rows, const TileStack& stack,
                                                  const Piece<AmxGemm>* pieces, int32_t count,
                                                  int32_t panel) {
  const char* a[kTiles];
  float* c[kTiles];
  for (int32_t tile = 0; tile < kTiles; ++tile) {
    a[tile] = reinterpret_cast<const char*>(rows.a + stack.FirstRow(tile) * rows.a_stride);
    c[tile] = rows.c[panel] + stack.FirstRow(tile) * rows.c_stride;
  }
  const int64_t a_stride = rows.a_stride * static_cast<int64_t>(sizeof(bf16_t));
  const int64_t c_stride = rows.c_stride * static_cast<int64_t>(sizeof(float));
  // Rows that two tiles share are read before they are written.
  ForTiles<kTiles>([&]<int32_t kTile>() __attribute__((always_inline)) {
    if (rows.from_zero) {
      AmxUnit::Zero<kTile>();
    } else {
      AmxUnit::Load<kTile>(c[kTile], c_stride);
    }
  });
  for (int32_t i = 0; i < count; ++i) GemmPanel<kTiles>(a, a_stride, pieces[i], panel);
  ForTiles<kTiles>([&]<int32_t kTile>()
                       __attribute__((always_inline)) { AmxUnit::Store<kTile>(c[kTile], c_stride); });
}

// GEMMs of the AMX unit take all panels one after the other (GemmStack, for each type of GEMM).
template <int32_t kPanels, typename P, typename Walk>
requires(__is_base_of(AmxTiles, P)) void GemmRows(TileRows<P> rows, int32_t count, Piece<P>* pieces,
                                                  int32_t piece_count, Walk* walk) {
  while (count > 0) {
    const TileStack stack = TileStack::Of(count);
    ConfigureTiles(stack.height);
    for (int32_t panel = 0; panel < kPanels; ++panel) {
      walk->Take(1, pieces, piece_count);
      switch (stack.tiles) {
        case 1:
          GemmStack<1>(rows, stack, pieces, piece_count, panel);
          break;
        case 2:
          GemmStack<2>(rows, stack, pieces, piece_count, panel);
          break;
        case 3:
          GemmStack<3>(rows, stack, pieces, piece_count, panel);
          break;
        default:
          GemmStack<kMaxTiles>(rows, stack, pieces, piece_count, panel);
      }
    }
    count -= stack.rows;
    rows.template Skip<kPanels>(stack.rows);
  }
}

}  // namespace
}  // namespace espalier::cpu
