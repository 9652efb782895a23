// For kernels_*.cpp only, after products.h: everything has internal linkage.
#pragma once

// The one inner loop of products and attention: a register tile of C takes in rows of operands times panels
// of 16 outputs. Whatever the tile's height, an element of C is one chain of multiply-adds in ascending k.
namespace espalier::cpu {
namespace {

// A stretch of k: where its lines lie, of kTilePanels panels (or one), and its operands relative to the row.
template <typename P>
struct Piece {
  const typename P::Weight* weights[kTilePanels];
  int64_t operand_offset;  // elements
  int32_t lines;           // of 16 outputs by P::kStep of k
};

constexpr int64_t kMostAheadStep = 128;

// Rows of operands and of C. C may lie in another place for each panel.
template <typename P>
struct TileRows {
  const typename P::Operand* a;
  int64_t a_stride;  // elements
  float* c[kTilePanels];
  int64_t c_stride;  // floats
  bool from_zero;    // C is overwritten; otherwise added to
  // Weights needed later, or null: each tile brings `ahead_step` bytes a line nearer, at most
  // kMostAheadStep.
  const char* ahead;
  int64_t ahead_step = kMostAheadStep;
};

template <typename P, int32_t kRows, int32_t kPanels>
ESPALIER_INLINE void MultiplyPiece(const typename P::Operand* a, int64_t a_stride, const Piece<P>& piece,
                                   const char* ahead, int64_t ahead_step, Vec (&acc)[kRows][kPanels]) {
  // Rows three apart share a pointer: few enough registers for any kRows.
  constexpr int32_t kBases = (kRows + 2) / 3;
  const typename P::Operand* bases[kBases];
#pragma GCC unroll 16
  for (int32_t i = 0; i < kBases; ++i) bases[i] = a + 3 * i * a_stride;
  const typename P::Weight* weights[kPanels];
  for (int32_t p = 0; p < kPanels; ++p) weights[p] = piece.weights[p];
  for (int32_t line = 0; line < piece.lines; ++line) {
    typename P::Line w[kPanels];
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      w[p] = P::LoadLine(weights[p]);
      weights[p] += kLanes * P::kStep;
    }
    if constexpr (kPanels > 1) {
      __builtin_prefetch(ahead, 0, 3);
      __builtin_prefetch(ahead + 64, 0, 3);
      ahead += ahead_step;
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const typename P::Broadcast x = P::LoadOperand(bases[r / 3] + (r % 3) * a_stride);
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) acc[r][p] = P::MulAdd(w[p], x, acc[r][p]);
    }
#pragma GCC unroll 16
    for (int32_t i = 0; i < kBases; ++i) bases[i] += P::kStep;
  }
}

template <typename P, int32_t kRows, int32_t kPanels>
__attribute__((noinline, noclone)) void MultiplyTile(const TileRows<P>& rows, const Piece<P>* pieces,
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
    const void* ahead = rows.ahead == nullptr ? static_cast<const void*>(pieces[i].weights[0]) : rows.ahead;
    MultiplyPiece<P, kRows, kPanels>(rows.a + pieces[i].operand_offset, rows.a_stride, pieces[i],
                                     static_cast<const char*>(ahead), rows.ahead_step, acc);
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
  const int32_t least = TilesOf(rows, sizes[0]);
  return TilesOf(rows, tiles > least ? tiles : least);
}

// The tallest tile of at most `count` rows; returns its height.
template <typename P, int32_t kPanels, int32_t kSize = 0>
ESPALIER_INLINE int32_t MultiplySome(const TileRows<P>& rows, int32_t count, const Piece<P>* pieces,
                                     int32_t piece_count) {
  constexpr int32_t kRows = kRowSizes[kSize];
  if constexpr (kRows == 1) {
    MultiplyTile<P, kRows, kPanels>(rows, pieces, piece_count);
    return kRows;
  } else {
    if (count < kRows) return MultiplySome<P, kPanels, kSize + 1>(rows, count, pieces, piece_count);
    MultiplyTile<P, kRows, kPanels>(rows, pieces, piece_count);
    return kRows;
  }
}

template <typename P, int32_t kPanels>
void MultiplyRows(TileRows<P> rows, int32_t count, const Piece<P>* pieces, int32_t piece_count,
                  int32_t tiles = 1) {
  for (; count > 0; --tiles) {
    const int32_t done =
        MultiplySome<P, kPanels>(rows, RowsOfTile(kRowSizes, count, tiles), pieces, piece_count);
    count -= done;
    rows.a += done * rows.a_stride;
    if (rows.ahead != nullptr) rows.ahead += rows.ahead_step * pieces[0].lines;
    for (int32_t p = 0; p < kPanels; ++p) rows.c[p] += done * rows.c_stride;
  }
}

}  // namespace
}  // namespace espalier::cpu
