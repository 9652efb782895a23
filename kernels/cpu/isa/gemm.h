// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/tiles.h"

// GEMM of rows with packed weights (GemmArgs). Whatever the blocking, an element of C is one chain of
// multiply-adds over ascending k: C itself carries the sum from one range of k to the next, and storing
// fp32 changes no bit.
namespace espalier::cpu {
namespace {

// Where the panels of a block lie.
template <typename P>
struct GemmBlock {
  const typename P::Weight* weights;
  float* c;
  int32_t panels;
  int32_t k_padded;

  const typename P::Weight* Panel(int32_t k, int32_t panel) const {
    const int32_t chunk = k_padded - k < kChunkK ? k_padded - k : kChunkK;
    return weights + (static_cast<int64_t>(k) * panels + static_cast<int64_t>(chunk) * panel) * kLanes;
  }
};

template <typename P>
GemmBlock<P> FindBlock(const GemmArgs& args, int32_t index) {
  GemmBlock<P> block;
  const int32_t first = index * args.panels_per_block;
  block.k_padded = (args.k + 31) / 32 * 32;
  block.weights = static_cast<const typename P::Weight*>(args.weights) +
                  static_cast<int64_t>(first) * kLanes * block.k_padded;
  block.panels = args.panels - first < args.panels_per_block ? args.panels - first : args.panels_per_block;
  block.c = args.c + static_cast<int64_t>(first) * kLanes;
  return block;
}

// C starts as the bias, or zero, or what it held.
template <typename P>
void StartBlock(const GemmArgs& args, const GemmBlock<P>& block) {
  if (args.accumulate && args.bias == nullptr) return;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + (block.c - args.c);
  for (int32_t row = 0; row < args.rows; ++row) {
    float* c = block.c + row * args.c_stride;
    for (int32_t i = 0; i < block.panels * kLanes; i += kLanes) {
      Vec start = bias == nullptr ? Set1(0.0F) : Load(bias + i);
      if (args.accumulate) start = Add(start, Load(c + i));
      Store(c + i, start);
    }
  }
}

template <typename P>
TileRows<P> RowsOf(const GemmArgs& args, const GemmBlock<P>& block, int32_t row, int32_t panel) {
  TileRows<P> rows;
  rows.a = static_cast<const typename P::Operand*>(args.a) + row * args.a_stride;
  rows.a_stride = args.a_stride;
  for (int32_t p = 0; p < kTilePanels; ++p) rows.c[p] = block.c + row * args.c_stride + (panel + p) * kLanes;
  rows.c_stride = args.c_stride;
  rows.from_zero = false;
  return rows;
}

// Panels [panel, panel + kPanels), k from `k` to the end of its chunk or of A.
template <int32_t kPanels, typename P>
Piece<P> PieceOf(const GemmArgs& args, const GemmBlock<P>& block, int32_t panel, int32_t k) {
  Piece<P> piece;
  for (int32_t p = 0; p < kPanels; ++p) piece.weights[p] = block.Panel(k, panel + p);
  piece.operand_offset = k;
  const int32_t lines = ((args.k - k < kChunkK ? args.k - k : kChunkK) + P::kStep - 1) / P::kStep;
  piece.lines = P::WholeLines(lines);
  return piece;
}

// Tiles into which few rows are divided: enough for each to prefetch its share.
template <int32_t kPanels, typename P>
constexpr int32_t StreamTiles(int32_t rows) {
  const int32_t min = (64 * kPanels + P::kMaxPrefetchStep - 1) / P::kMaxPrefetchStep;
  const int32_t tiles = TilesOf(rows, P::kTileRows[0]);
  return tiles < min ? min : tiles;
}

// Panels of the only tile of one row.
constexpr int32_t kOneRowPanels = kTilePanels < 2 ? kTilePanels : 2;

// Where weights lie that a thread needs some time after those of a tile, `bytes` from `now` on: after a block
// comes the one that this thread will probably take next.
template <typename P>
const char* PrefetchAddress(const GemmArgs& args, const GemmBlock<P>& block, const typename P::Weight* now,
                            int64_t bytes) {
  const int64_t block_bytes =
      int64_t{block.panels} * kLanes * block.k_padded * static_cast<int64_t>(sizeof(typename P::Weight));
  const char* prefetch = reinterpret_cast<const char*>(now) + P::PrefetchDistance(bytes);
  const bool beyond = prefetch - reinterpret_cast<const char*>(block.weights) >= block_bytes;
  return beyond ? prefetch + (args.threads - 1) * block_bytes : prefetch;
}

// Chunk k of the block's panels from `panel` on, while there are kPanels; returns the first that is left.
template <int32_t kPanels, typename P>
int32_t StreamPanels(const GemmArgs& args, const GemmBlock<P>& block, int32_t panel, int32_t k) {
  const int32_t tiles = StreamTiles<kPanels, P>(args.rows);
  for (; panel + kPanels <= block.panels; panel += kPanels) {
    Piece<P> piece = PieceOf<kPanels>(args, block, panel, k);
    const char* prefetch =
        PrefetchAddress(args, block, piece.weights[0], int64_t{64} * piece.lines * kPanels);
    EvenTiles walk = {tiles, prefetch, (64 * kPanels + tiles - 1) / tiles};
    GemmRows<kPanels>(RowsOf(args, block, 0, panel), args.rows, &piece, 1, &walk);
  }
  return panel;
}

// Few rows: the weights pass by once, in the order in which they lie, those of a tile's panels of 128 k
// staying in L1 while the rows take their turn; between its lines each tile prefetches its share of the
// lines that are needed later.
template <typename P>
void StreamBlock(const GemmArgs& args, const GemmBlock<P>& block) {
  for (int32_t k = 0; k < args.k; k += kChunkK) {
    int32_t panel = args.rows == 1 ? StreamPanels<kOneRowPanels>(args, block, 0, k)
                                   : StreamPanels<kTilePanels>(args, block, 0, k);
    panel = StreamPanels<kHalfPanels>(args, block, panel, k);
    StreamPanels<1>(args, block, panel, k);
  }
}

// As StreamPanels: a range of k from `k_begin` on, times some rows.
template <int32_t kPanels, typename P>
int32_t TilePanels(const GemmArgs& args, const GemmBlock<P>& block, int32_t row, int32_t rows, int32_t panel,
                   int32_t k_begin) {
  for (; panel + kPanels <= block.panels; panel += kPanels) {
    Piece<P> pieces[P::kRangePieces];
    int32_t count = 0;
    for (int32_t k = k_begin; count < P::kRangePieces && k < args.k; ++count, k += kChunkK) {
      pieces[count] = PieceOf<kPanels>(args, block, panel, k);
    }
    EvenTiles walk;
    GemmRows<kPanels>(RowsOf(args, block, row, panel), rows, pieces, count, &walk);
  }
  return panel;
}

// Many rows: a range of k of the block stays in L2, the tile's rows in L1, a tile of C in registers.
template <typename P>
void TileBlock(const GemmArgs& args, const GemmBlock<P>& block) {
  for (int32_t k = 0; k < args.k; k += P::kRangePieces * kChunkK) {
    for (int32_t row = 0; row < args.rows; row += P::kTileRows[0]) {
      const int32_t rows = args.rows - row < P::kTileRows[0] ? args.rows - row : P::kTileRows[0];
      int32_t panel = TilePanels<kTilePanels>(args, block, row, rows, 0, k);
      panel = TilePanels<kHalfPanels>(args, block, row, rows, panel, k);
      TilePanels<1>(args, block, row, rows, panel, k);
    }
  }
}

constexpr int32_t kFewRows = 64;

// The rows of a part, as a GEMM of their own.
template <typename P>
GemmArgs PartOf(const GemmArgs& args, int32_t part) {
  GemmArgs rows = args;
  const int64_t first = int64_t{args.rows} * part / args.row_parts;
  rows.rows = static_cast<int32_t>(int64_t{args.rows} * (part + 1) / args.row_parts - first);
  rows.a = static_cast<const typename P::Operand*>(args.a) + first * args.a_stride;
  rows.c += first * args.c_stride;
  rows.threads = (args.threads + args.row_parts - 1) / args.row_parts;
  if (args.a_groups > 0) {
    rows.a_scales += first * args.a_groups;
    rows.a_starts += first * args.a_groups;
  }
  return rows;
}

template <typename P>
void Gemm(const GemmArgs& all, int32_t unit) {
  const GemmArgs args = PartOf<P>(all, unit % all.row_parts);
  const GemmBlock<P> block = FindBlock<P>(args, unit / all.row_parts);
  StartBlock(args, block);
  if (args.rows <= kFewRows) {
    StreamBlock(args, block);
  } else {
    TileBlock(args, block);
  }
  P::Finish();
}

}  // namespace
}  // namespace espalier::cpu
