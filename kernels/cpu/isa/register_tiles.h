// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/gemm_types.h"

// The one inner loop of GEMM and attention: a register tile of C takes in rows of operands times panels
// of 16 outputs. Whatever the tile's height, an element of C is one chain of multiply-adds in ascending k.
namespace espalier::cpu {
namespace {

// Panels of the tiles that take what is left over where there are no kTilePanels; then come tiles of one.
constexpr int32_t kHalfPanels = kTilePanels > 1 ? kTilePanels / 2 : 1;

// A range of k: where its lines lie, of kTilePanels panels (or fewer), and its operands relative to the
// row.
template <typename P>
struct Piece {
  const typename P::Weight* weights[kTilePanels];
  int64_t operand_offset;  // elements
  int32_t lines;           // of 16 outputs by P::kStep of k
  // What a tile prefetches between its lines: some lines from here on, and for each line of its own
  // `prefetch_step` bytes further on.
  const char* prefetch;
  int64_t prefetch_step;
};

// Rows of operands and of C. C may lie in another place for each panel.
template <typename P>
struct TileRows {
  const typename P::Operand* a;
  int64_t a_stride;  // elements
  float* c[kTilePanels];
  int64_t c_stride;  // floats
  bool from_zero;    // C is overwritten; otherwise added to

  template <int32_t kPanels>
  void Skip(int32_t rows) {
    a += rows * a_stride;
    for (int32_t p = 0; p < kPanels; ++p) c[p] += rows * c_stride;
  }
};

template <int32_t kRows, int32_t kPanels, int32_t kPrefetchLines, typename P>
ESPALIER_INLINE void GemmPiece(const typename P::Operand* a, int64_t a_stride, const Piece<P>& piece,
                               typename P::Sum (&sums)[kRows][kPanels]) {
  // Rows three apart share a pointer: few enough registers for any kRows.
  constexpr int32_t kBases = (kRows + 2) / 3;
  const typename P::Operand* bases[kBases];
#pragma GCC unroll 16
  for (int32_t i = 0; i < kBases; ++i) bases[i] = a + 3 * i * a_stride;
  const typename P::Weight* weights[kPanels];
  for (int32_t p = 0; p < kPanels; ++p) weights[p] = piece.weights[p];
  const char* prefetch = piece.prefetch;
  const int64_t prefetch_step = piece.prefetch_step;
  for (int32_t line = 0; line < piece.lines; ++line) {
    typename P::Line w[kPanels];
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      w[p] = P::LoadLine(weights[p]);
      weights[p] += kLanes * P::kStep;
    }
    if constexpr (kPrefetchLines > 0) {
#pragma GCC unroll 16
      for (int32_t i = 0; i < kPrefetchLines; ++i) __builtin_prefetch(prefetch + int64_t{64} * i, 0, 3);
      prefetch += prefetch_step;
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const typename P::Broadcast x = P::LoadOperand(bases[r / 3] + (r % 3) * a_stride);
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) sums[r][p] = P::MulAdd(w[p], x, sums[r][p]);
    }
#pragma GCC unroll 16
    for (int32_t i = 0; i < kBases; ++i) bases[i] += P::kStep;
  }
}

// Prefetches kPrefetchLines lines for each line of the pieces.
template <int32_t kRows, int32_t kPanels, int32_t kPrefetchLines, typename P>
__attribute__((noinline, noclone)) void GemmTile(const TileRows<P>& rows, const Piece<P>* pieces,
                                                 int32_t count) {
  Vec acc[kRows][kPanels];
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      acc[r][p] = rows.from_zero ? Set1(0.0F) : Load(rows.c[p] + r * rows.c_stride);
    }
  }
  for (int32_t i = 0; i < count; ++i) {
    GemmPiece<kRows, kPanels, kPrefetchLines>(rows.a + pieces[i].operand_offset, rows.a_stride, pieces[i],
                                              acc);
  }
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) Store(rows.c[p] + r * rows.c_stride, acc[r][p]);
  }
}

constexpr int32_t TilesOf(int32_t rows, int32_t tallest) { return (rows + tallest - 1) / tallest; }

// Most rows of the next of at least `tiles` tiles: all as equal as can be where there is every size.
template <int32_t kSizes>
constexpr int32_t RowsOfTile(const int32_t (&sizes)[kSizes], int32_t rows, int32_t tiles) {
  if (sizes[0] != kSizes) return rows;
  const int32_t min = TilesOf(rows, sizes[0]);
  return TilesOf(rows, tiles > min ? tiles : min);
}

// How a GEMM walks over rows: by so many tiles, as equal as can be. Each prefetches its share of what
// lies from `next` on, if it is not null.
struct EvenTiles {
  template <int32_t kRows, int32_t kPanels>
  static constexpr int32_t kPrefetchLines = kPanels > 1 ? 2 : 0;

  int32_t tiles = 1;
  const char* next = nullptr;
  int64_t step = 64;  // bytes a line, at most P::kMaxPrefetchStep

  template <int32_t kSizes>
  int32_t RowsOfNext(const int32_t (&sizes)[kSizes], int32_t rows) {
    return RowsOfTile(sizes, rows, tiles--);
  }

  template <typename P>
  ESPALIER_INLINE void Take(int32_t lines, Piece<P>* pieces, int32_t count) {
    if (lines == 0) return;
    for (int32_t i = 0; i < count; ++i) {
      // What has just been read is in the cache.
      pieces[i].prefetch = next == nullptr ? reinterpret_cast<const char*>(pieces[i].weights[0]) : next;
      pieces[i].prefetch_step = step;
      if (next != nullptr) next += step * pieces[i].lines;
    }
  }
};

// The tallest tile of at most `count` rows; returns its height.
template <int32_t kPanels, int32_t kSize = 0, typename P, typename Walk>
ESPALIER_INLINE int32_t GemmSome(const TileRows<P>& rows, int32_t count, Piece<P>* pieces,
                                 int32_t piece_count, Walk* walk) {
  constexpr int32_t kRows = P::kTileRows[kSize];
  if constexpr (kRows > 1) {
    if (count < kRows) return GemmSome<kPanels, kSize + 1>(rows, count, pieces, piece_count, walk);
  }
  constexpr int32_t kPrefetchLines = Walk::template kPrefetchLines<kRows, kPanels>;
  walk->Take(kPrefetchLines, pieces, piece_count);
  GemmTile<kRows, kPanels, kPrefetchLines>(rows, pieces, piece_count);
  return kRows;
}

// `walk` (EvenTiles, KvPrefetcher) divides the rows into tiles, and says what the pieces prefetch.
template <int32_t kPanels, typename P, typename Walk>
void GemmRows(TileRows<P> rows, int32_t count, Piece<P>* pieces, int32_t piece_count, Walk* walk) {
  while (count > 0) {
    const int32_t done =
        GemmSome<kPanels>(rows, walk->RowsOfNext(P::kTileRows, count), pieces, piece_count, walk);
    count -= done;
    rows.template Skip<kPanels>(done);
  }
}

}  // namespace
}  // namespace espalier::cpu
