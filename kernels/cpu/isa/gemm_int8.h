// For kernels_*.cpp only, after gemm.h and int8_sums.h: everything has internal linkage.
#pragma once

#include "kernels/base/int8.h"

// Products of int8 rows with int8 weights. The sums of a chunk of k are integers; then C takes them in, chunk
// after chunk in ascending k. So the bits of an element depend on nothing else here either.
namespace espalier::cpu {
namespace {

static_assert(kInt8Group == kChunkK);

// Where weights and operands lie; for the parts of gemm.h that only move pointers.
struct Int8Product {
  using Weight = uint8_t;
  using Operand = int8_t;
  static constexpr int32_t kStep = 4;
};

struct Int8Rows {
  const int8_t* a;  // of the first row, at the beginning of the chunk of k
  int64_t a_stride;
  const float* scales;    // of the first row for the chunk of k; `groups` from row to row
  const int32_t* starts;  // likewise
  int64_t groups;
  float* c;  // of the first row and panel
  int64_t c_stride;
  const float* weight_scales;  // of the first panel
  // Weights needed later, or null: each tile brings `ahead_step` bytes a line nearer.
  const char* ahead;
  int64_t ahead_step;
};

Int8Rows Int8RowsOf(const GemmArgs& args, const GemmBlock<Int8Product>& block, int32_t row, int32_t panel,
                    int32_t k) {
  const int64_t group = row * args.a_groups + k / kInt8Group;
  float* c = block.c + panel * kLanes;
  return {static_cast<const int8_t*>(args.a) + row * args.a_stride + k,
          args.a_stride,
          args.a_scales + group,
          args.a_starts + group,
          args.a_groups,
          c + row * args.c_stride,
          args.c_stride,
          args.weight_scales + (c - args.c),
          nullptr,
          0};
}

template <int32_t kRows, int32_t kPanels>
__attribute__((noinline, noclone)) void MultiplyInt8Tile(const Int8Rows& rows,
                                                         const Piece<Int8Product>& piece) {
  const Int8Rows tile = rows;  // what is stored to C cannot change these
  // Rows three apart share a pointer: few enough registers for any kRows.
  constexpr int32_t kBases = (kRows + 2) / 3;
  const int8_t* bases[kBases];
#pragma GCC unroll 16
  for (int32_t i = 0; i < kBases; ++i) bases[i] = tile.a + 3 * i * tile.a_stride;
  const uint8_t* weights[kPanels];
  for (int32_t p = 0; p < kPanels; ++p) weights[p] = piece.weights[p];
  const char* ahead = tile.ahead != nullptr ? tile.ahead : reinterpret_cast<const char*>(weights[0]);
  Int8Sum sums[kRows][kPanels];
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
    const Int8Sum start = StartInt8Sum(tile.starts[r * tile.groups]);
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) sums[r][p] = start;
  }
  for (int32_t line = 0; line < piece.lines; ++line) {
    Int8Line w[kPanels];
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      w[p] = LoadInt8Line(weights[p]);
      weights[p] += kLanes * Int8Product::kStep;
    }
    if constexpr (kPanels > 1) {
      __builtin_prefetch(ahead, 0, 3);
      __builtin_prefetch(ahead + 64, 0, 3);
      ahead += tile.ahead_step;
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const Int8Operand a = LoadInt8Operand(bases[r / 3] + (r % 3) * tile.a_stride);
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) sums[r][p] = Int8MulAdd(w[p], a, sums[r][p]);
    }
#pragma GCC unroll 16
    for (int32_t i = 0; i < kBases; ++i) bases[i] += Int8Product::kStep;
  }
  Vec weight_scales[kPanels];
#pragma GCC unroll 16
  for (int32_t p = 0; p < kPanels; ++p) weight_scales[p] = Load(tile.weight_scales + p * kLanes);
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
    const Vec scale = Set1(tile.scales[r * tile.groups]);
    float* c = tile.c + r * tile.c_stride;
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      const Vec sum = Mul(FinishInt8Sum(sums[r][p]), scale);
      Store(c + p * kLanes, MulAdd(sum, weight_scales[p], Load(c + p * kLanes)));
    }
  }
}

// The tallest tile of at most `count` rows; returns its height.
template <int32_t kPanels, int32_t kSize = 0>
ESPALIER_INLINE int32_t MultiplySomeInt8(const Int8Rows& tile, int32_t count,
                                         const Piece<Int8Product>& piece) {
  constexpr int32_t kRows = kInt8RowSizes[kSize];
  if constexpr (kRows > 1) {
    if (count < kRows) return MultiplySomeInt8<kPanels, kSize + 1>(tile, count, piece);
  }
  MultiplyInt8Tile<kRows, kPanels>(tile, piece);
  return kRows;
}

template <int32_t kPanels>
void MultiplyInt8Rows(Int8Rows tile, int32_t count, int32_t tiles, const Piece<Int8Product>& piece) {
  for (; count > 0; --tiles) {
    const int32_t done = MultiplySomeInt8<kPanels>(tile, RowsOfTile(kInt8RowSizes, count, tiles), piece);
    count -= done;
    tile.a += done * tile.a_stride;
    tile.scales += done * tile.groups;
    tile.starts += done * tile.groups;
    tile.c += done * tile.c_stride;
    if (tile.ahead != nullptr) tile.ahead += tile.ahead_step * piece.lines;
  }
}

// As StreamPanels.
template <int32_t kPanels>
int32_t StreamInt8Panels(const GemmArgs& args, const GemmBlock<Int8Product>& block, int32_t panel,
                         int32_t k) {
  const int32_t tiles = StreamTiles<kPanels>(args.rows, kInt8RowSizes[0]);
  for (; panel + kPanels <= block.panels; panel += kPanels) {
    const auto piece = PieceOf<Int8Product, kPanels>(args, block, panel, k);
    Int8Rows tile = Int8RowsOf(args, block, 0, panel, k);
    tile.ahead = AheadOf(args, block, piece.weights[0], int64_t{64} * piece.lines * kPanels);
    tile.ahead_step = (64 * kPanels + tiles - 1) / tiles;
    MultiplyInt8Rows<kPanels>(tile, args.rows, tiles, piece);
  }
  return panel;
}

// As StreamBlock.
void StreamInt8Block(const GemmArgs& args, const GemmBlock<Int8Product>& block) {
  for (int32_t k = 0; k < args.k; k += kChunkK) {
    const int32_t panel = args.rows == 1 ? StreamInt8Panels<kOneRowPanels>(args, block, 0, k)
                                         : StreamInt8Panels<kTilePanels>(args, block, 0, k);
    StreamInt8Panels<1>(args, block, panel, k);
  }
}

template <int32_t kPanels>
void MultiplyInt8Stretch(const GemmArgs& args, const GemmBlock<Int8Product>& block, int32_t row, int32_t rows,
                         int32_t panel, int32_t k_begin) {
  const int32_t stretch_end = k_begin + kStretchPieces * kChunkK;
  const int32_t k_end = args.k < stretch_end ? args.k : stretch_end;
  for (int32_t k = k_begin; k < k_end; k += kChunkK) {
    MultiplyInt8Rows<kPanels>(Int8RowsOf(args, block, row, panel, k), rows, 1,
                              PieceOf<Int8Product, kPanels>(args, block, panel, k));
  }
}

// As TileBlock, but that a tile of C is in L1 between chunks.
void TileInt8Block(const GemmArgs& args, const GemmBlock<Int8Product>& block) {
  for (int32_t k = 0; k < args.k; k += kStretchPieces * kChunkK) {
    for (int32_t row = 0; row < args.rows; row += kInt8RowSizes[0]) {
      const int32_t rows = args.rows - row < kInt8RowSizes[0] ? args.rows - row : kInt8RowSizes[0];
      int32_t panel = 0;
      for (; panel + kTilePanels <= block.panels; panel += kTilePanels) {
        MultiplyInt8Stretch<kTilePanels>(args, block, row, rows, panel, k);
      }
      for (; panel < block.panels; ++panel) MultiplyInt8Stretch<1>(args, block, row, rows, panel, k);
    }
  }
}

void GemmInt8(const GemmArgs& args, int32_t index) {
  const auto block = FindBlock<Int8Product>(args, index);
  StartBlock(args, block);
  if (args.rows <= kFewRows) {
    StreamInt8Block(args, block);
  } else {
    TileInt8Block(args, block);
  }
}

// One group; `count` is rounded up to 16. The same q as QuantizeInt8's.
ESPALIER_INLINE float QuantizeGroup(const float* in, int32_t count, int8_t* out) {
  Vec largest = Set1(0.0F);
  Vec not_finite = Set1(0.0F);  // v - v is zero but for infinities and NaN
  for (int32_t i = 0; i < count; i += kLanes) {
    const Vec v = Load(in + i);
    largest = Max(largest, Max(v, Sub(Set1(0.0F), v)));
    not_finite = Add(not_finite, Sub(v, v));
  }
  const float most = ReduceMax(largest);
  const bool zeros = !(most >= kInt8Least);
  const Vec inverse = Set1(zeros ? 0.0F : kInt8Most / most);
  for (int32_t i = 0; i < count; i += kLanes) {
    const Vec q = Round(Mul(Load(in + i), inverse));
    StoreInt8(out + i, Min(Max(q, Set1(-kInt8Most)), Set1(kInt8Most)));
  }
  return (zeros ? 0.0F : most / kInt8Most) + ReduceAdd(not_finite);
}

void QuantizeRow(const QuantizeArgs& args) {
  for (int64_t k = 0; k < args.columns; k += kInt8Group) {
    const auto left = static_cast<int32_t>(args.columns - k < kInt8Group ? args.columns - k : kInt8Group);
    const int32_t count = (left + kLanes - 1) / kLanes * kLanes;
    args.scales[k / kInt8Group] = QuantizeGroup(args.in + k, count, args.out + k);
    int32_t sum = 0;
    for (int32_t i = 0; i < count; ++i) sum += args.out[k + i];
    args.starts[k / kInt8Group] = -kInt8Bias * sum;
  }
}

// As Bf16MultiplyAdds.
float Int8MultiplyAdds(int64_t rounds, int64_t* multiply_adds) {
  constexpr int32_t kRows = kInt8RowSizes[0];
  alignas(64) uint8_t weights[kTilePanels][kChunkK * kLanes] = {};
  alignas(64) int8_t operands[kRows][kChunkK] = {};
  alignas(64) float c[kRows][kTilePanels * kLanes] = {};
  alignas(64) float weight_scales[kTilePanels * kLanes] = {};
  const float scales[kRows] = {};
  const int32_t starts[kRows] = {};
  Piece<Int8Product> piece = {};
  piece.lines = kChunkK / Int8Product::kStep;
  for (int32_t p = 0; p < kTilePanels; ++p) piece.weights[p] = weights[p];
  const Int8Rows tile = {operands[0],          kChunkK,       scales,  starts, 1, c[0],
                         kTilePanels * kLanes, weight_scales, nullptr, 0};
  for (int64_t i = 0; i < rounds; ++i) MultiplyInt8Tile<kRows, kTilePanels>(tile, piece);
  *multiply_adds = rounds * kRows * kTilePanels * kLanes * kChunkK;
  return c[0][0];
}

}  // namespace
}  // namespace espalier::cpu
