// For kernels_*.cpp only, after products.h: everything has internal linkage.
#pragma once

// Products of rows with packed weights (GemmArgs). Whatever the blocking, an element of C is one chain of
// multiply-adds over ascending k: C itself carries the sum from one stretch of k to the next, and storing
// fp32 changes no bit.
namespace espalier::cpu {
namespace {

// acc[row][panel] += A[row, 0 .. lines * kStep) * panels; one line is 16 outputs by kStep of k.
template <typename P, int32_t kRows, int32_t kPanels, bool kPrefetch>
ESPALIER_INLINE void MultiplyTile(const typename P::Operand* a, int64_t a_stride,
                                  const typename P::Weight* const (&weights)[kPanels], int32_t lines,
                                  Vec (&acc)[kRows][kPanels]) {
  // Rows three apart share a pointer: few enough registers for any kRows.
  const typename P::Operand* bases[(kRows + 2) / 3];
#pragma GCC unroll 16
  for (int32_t i = 0; i < (kRows + 2) / 3; ++i) bases[i] = a + 3 * i * a_stride;
  for (int32_t line = 0; line < lines; ++line) {
    typename P::Line w[kPanels];
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) {
      const typename P::Weight* address = weights[p] + static_cast<int64_t>(line) * kLanes * P::kStep;
      w[p] = P::LoadLine(address);
      if constexpr (kPrefetch) {
        __builtin_prefetch(reinterpret_cast<const char*>(address) + kPrefetchBytes, 0, 3);
      }
    }
#pragma GCC unroll 16
    for (int32_t r = 0; r < kRows; ++r) {
      const typename P::Broadcast x = P::LoadOperand(bases[r / 3] + (r % 3) * a_stride);
#pragma GCC unroll 16
      for (int32_t p = 0; p < kPanels; ++p) acc[r][p] = P::MulAdd(w[p], x, acc[r][p]);
    }
#pragma GCC unroll 16
    for (int32_t i = 0; i < (kRows + 2) / 3; ++i) bases[i] += P::kStep;
  }
}

template <int32_t kRows, int32_t kPanels>
ESPALIER_INLINE void LoadTile(const float* c, int64_t stride, Vec (&acc)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) acc[r][p] = Load(c + r * stride + p * kLanes);
  }
}

template <int32_t kRows, int32_t kPanels>
ESPALIER_INLINE void StoreTile(float* c, int64_t stride, const Vec (&acc)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int32_t p = 0; p < kPanels; ++p) Store(c + r * stride + p * kLanes, acc[r][p]);
  }
}

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

template <typename P, int32_t kRows, bool kPrefetch>
ESPALIER_INLINE void StreamPanel(const typename P::Operand* a, int64_t a_stride,
                                 const typename P::Weight* panel, int32_t lines, float* c, int64_t c_stride) {
  Vec acc[kRows][1];
  const typename P::Weight* const panels[1] = {panel};
  LoadTile<kRows, 1>(c, c_stride, acc);
  MultiplyTile<P, kRows, 1, kPrefetch>(a, a_stride, panels, lines, acc);
  StoreTile<kRows, 1>(c, c_stride, acc);
}

// Few rows: the weights pass by once, in the order in which they lie; 4 or 8 KB of them stay in L1 while
// groups of rows take their turn.
template <typename P>
void StreamBlock(const GemmArgs& args, const GemmBlock<P>& block) {
  const auto* a = static_cast<const typename P::Operand*>(args.a);
  const int32_t groups = (args.rows + kStreamRows - 1) / kStreamRows;
  for (int32_t k = 0; k < args.k; k += kChunkK) {
    const int32_t length = args.k - k < kChunkK ? args.k - k : kChunkK;
    const int32_t lines = (length + P::kStep - 1) / P::kStep;
    for (int32_t panel = 0; panel < block.panels; ++panel) {
      const typename P::Weight* weights = block.Panel(k, panel);
      int32_t row = 0;
      for (int32_t group = 0; group < groups; ++group) {
        const int32_t rows = (args.rows - row + groups - group - 1) / (groups - group);
        const typename P::Operand* x = a + row * args.a_stride + k;
        float* c = block.c + row * args.c_stride + panel * kLanes;
        WithConstant<kStreamRows>(rows, [&](auto n) ESPALIER_INLINE_LAMBDA {
          if (group == 0) {
            StreamPanel<P, decltype(n)::value, true>(x, args.a_stride, weights, lines, c, args.c_stride);
          } else {
            StreamPanel<P, decltype(n)::value, false>(x, args.a_stride, weights, lines, c, args.c_stride);
          }
        });
        row += rows;
      }
    }
  }
}

constexpr int32_t kStretchK = 4 * kChunkK;  // k of a block whose weights stay in L2

template <typename P, int32_t kRows, int32_t kPanels>
ESPALIER_INLINE void MultiplyStretch(const GemmArgs& args, const GemmBlock<P>& block, int32_t row,
                                     int32_t panel, int32_t k_begin, int32_t k_end) {
  const auto* a = static_cast<const typename P::Operand*>(args.a) + row * args.a_stride;
  float* c = block.c + row * args.c_stride + panel * kLanes;
  Vec acc[kRows][kPanels];
  LoadTile<kRows, kPanels>(c, args.c_stride, acc);
  for (int32_t k = k_begin; k < k_end; k += kChunkK) {
    const int32_t length = k_end - k < kChunkK ? k_end - k : kChunkK;
    const typename P::Weight* panels[kPanels];
    for (int32_t p = 0; p < kPanels; ++p) panels[p] = block.Panel(k, panel + p);
    MultiplyTile<P, kRows, kPanels, false>(a + k, args.a_stride, panels, (length + P::kStep - 1) / P::kStep,
                                           acc);
  }
  StoreTile<kRows, kPanels>(c, args.c_stride, acc);
}

// Many rows: a stretch of k of the block stays in L2, a group of rows in L1, a tile of C in registers.
template <typename P>
void TileBlock(const GemmArgs& args, const GemmBlock<P>& block) {
  const int32_t groups = (args.rows + kTileRows - 1) / kTileRows;
  for (int32_t k = 0; k < args.k; k += kStretchK) {
    const int32_t k_end = args.k - k < kStretchK ? args.k : k + kStretchK;
    int32_t row = 0;
    for (int32_t group = 0; group < groups; ++group) {
      const int32_t rows = (args.rows - row + groups - group - 1) / (groups - group);
      WithConstant<kTileRows>(rows, [&](auto n) ESPALIER_INLINE_LAMBDA {
        int32_t panel = 0;
        for (; panel + kTilePanels <= block.panels; panel += kTilePanels) {
          MultiplyStretch<P, decltype(n)::value, kTilePanels>(args, block, row, panel, k, k_end);
        }
        for (; panel < block.panels; ++panel) {
          MultiplyStretch<P, decltype(n)::value, 1>(args, block, row, panel, k, k_end);
        }
      });
      row += rows;
    }
  }
}

constexpr int32_t kFewRows = 64;

template <typename P>
void Gemm(const GemmArgs& args, int32_t index) {
  const GemmBlock<P> block = FindBlock<P>(args, index);
  StartBlock(args, block);
  if (args.rows <= kFewRows) {
    StreamBlock(args, block);
  } else {
    TileBlock(args, block);
  }
}

}  // namespace
}  // namespace espalier::cpu
