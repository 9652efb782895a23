// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/attention_softmax.h"
#include "kernels/cpu/isa/attention_spans.h"
#include "kernels/cpu/isa/attention_tile.h"
#include "kernels/cpu/isa/tiles.h"

// Attention of one item for one KV head. For each segment of 256 absolute positions a row forms, from zero,
// its scores, the maximum rounded up to an integer in base 2, probabilities, their sum, and the GEMM with
// V; the segments are merged in ascending order, where integer maxima make every rescaling exact. Tokens a
// row does not see add an exact zero. So a row's bits do not depend on the tile, the cut or the
// batch. Online softmax: Milakov and Gimelshein 2018; merging of partials: FlashAttention-2, section 3.1.
namespace espalier::cpu {
namespace {

template <typename P>
void PackQueries(const Tile<P>& t) {
  for (int32_t row = 0; row < t.item.rows; ++row) {
    const float* in = t.args.qkv + (t.item.first_row + row) * t.args.qkv_stride +
                      static_cast<int64_t>(t.first_head) * t.args.head_dim;
    auto* out = t.Queries(row * t.group);
    if (t.args.head_dim == t.args.stored_dim) {
      for (int64_t i = 0; i < static_cast<int64_t>(t.group) * t.args.head_dim; i += kLanes) {
        P::StoreOperands(out + i, Load(in + i));
      }
      continue;
    }
    for (int32_t g = 0; g < t.group; ++g, in += t.args.head_dim, out += t.args.stored_dim) {
      for (int32_t i = 0; i < t.args.stored_dim; i += kLanes) {
        float padded[kLanes] = {};
        for (int32_t d = i; d < MinOf(i + kLanes, t.args.head_dim); ++d) padded[d - i] = in[d];
        P::StoreOperands(out + i, Load(padded));
      }
    }
  }
}

// Scores of packed rows [begin, end) against 16 keys.
template <typename P>
void ScorePanel(const Tile<P>& t, int32_t begin, int32_t end, const typename P::Weight* keys, float* out,
                int64_t out_stride) {
  Piece<P> piece;
  piece.weights[0] = keys;
  piece.operand_offset = 0;
  piece.lines = t.args.stored_dim / P::kStep;
  const TileRows<P> rows = {t.Queries(begin), t.args.stored_dim, {out}, out_stride, true};
  EvenTiles tiles;
  GemmRows<1>(rows, end - begin, &piece, 1, &tiles);
}

// Groups of 16 keys of a run, from `panel` on, for packed rows that see all of them, while there are kPanels;
// returns the first that is left.
template <int32_t kPanels, typename P>
int32_t ScorePanels(const Tile<P>& t, int32_t panels, int32_t panel, int32_t begin, int32_t end,
                    KvPrefetcher<P>* prefetcher) {
  const int32_t panels_per_block = t.args.kv.stored_tokens / kLanes;
  constexpr int32_t kParts = P::kScoreParts;
  const int32_t lines = t.args.stored_dim / P::kStep / kParts;
  TileRows<P> rows;
  rows.a = t.Queries(begin);
  rows.a_stride = t.args.stored_dim;
  rows.c_stride = kScoreStride;
  rows.from_zero = true;
  for (; panel + kPanels <= panels; panel += kPanels) {
    Piece<P> pieces[kParts];
    for (int32_t p = 0; p < kPanels; ++p) {
      const RunBlock& block = t.x.run[(panel + p) / panels_per_block];
      const int32_t group = (panel + p) % panels_per_block;
      const auto* keys = static_cast<const typename P::Weight*>(block.data) +
                         static_cast<int64_t>(group) * kLanes * t.args.stored_dim;
      for (int32_t i = 0; i < kParts; ++i) {
        pieces[i].weights[p] = keys + int64_t{i} * lines * P::kStep * kLanes;
      }
      rows.c[p] = t.Scores(begin) + block.column + group * kLanes;
    }
    for (int32_t i = 0; i < kParts; ++i) {
      pieces[i].operand_offset = int64_t{i} * lines * P::kStep;
      pieces[i].lines = lines;
    }
    GemmRows<kPanels>(rows, end - begin, pieces, kParts, prefetcher);
  }
  return panel;
}

// All blocks of a run for packed rows that see all of them.
template <typename P>
void ScoreRun(const Tile<P>& t, int32_t blocks, int32_t begin, int32_t end, KvPrefetcher<P>* prefetcher) {
  const int32_t panels = blocks * (t.args.kv.stored_tokens / kLanes);
  int32_t panel = ScorePanels<kTilePanels>(t, panels, 0, begin, end, prefetcher);
  panel = ScorePanels<kHalfPanels>(t, panels, panel, begin, end, prefetcher);
  ScorePanels<1>(t, panels, panel, begin, end, prefetcher);
}

// One row that sees part of a block: scores to the side, then those it sees to their columns.
template <typename P>
void ScoreRow(const Tile<P>& t, const KvSegment& segment, const KvBlockSpan& span, int32_t row) {
  const int32_t tokens = t.args.kv.stored_tokens;
  const int32_t packed = t.Packed(row);
  for (int32_t slot = span.kv_slot_begin / kLanes * kLanes; slot < span.kv_slot_end; slot += kLanes) {
    const auto* keys = t.KeysOf(span.block) + static_cast<int64_t>(slot) * t.args.stored_dim;
    ScorePanel(t, packed, packed + t.group, keys, t.x.tile + slot, tokens);
  }
  for (int32_t i = span.first_entry; i < span.first_entry + span.entries; ++i) {
    const PlanEntry& entry = t.args.entries[i];
    for (int32_t token = 0; token < entry.tokens; ++token) {
      if (!Sees(t.args, entry, token, row)) continue;
      const int32_t column = TokenPosition(t.args, entry, token) - segment.position;
      for (int32_t g = 0; g < t.group; ++g) {
        t.Scores(packed + g)[column] = t.x.tile[g * tokens + entry.first_kv_slot + token];
      }
    }
  }
}

// Masks what the rows of a span on the causal diagonal do not see.
template <typename P>
void MaskCausalDiagonal(const Tile<P>& t, const KvBlockSpan& span) {
  static constexpr float kInfinity = __builtin_inff();
  static constexpr float kBounds[2 * kLanes] = {
      kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,
      kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,  kInfinity,
      -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity,
      -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity};
  for (int32_t row = span.row_begin; row < span.row_end; ++row) {
    const int32_t seen = MinOf(span.kv_slot_end, row - span.diagonal_row + 1);
    for (int32_t slot = seen / kLanes * kLanes; slot < t.args.kv.stored_tokens; slot += kLanes) {
      const Vec bounds = Load(kBounds + kLanes - MaxOf(0, seen - slot));
      for (int32_t packed = t.Packed(row); packed < t.Packed(row + 1); ++packed) {
        float* scores = t.Scores(packed) + span.column + slot;
        Store(scores, Min(Load(scores), bounds));
      }
    }
  }
}

// The column up to which, from column_begin on, all rows of the segment see everything.
template <typename P>
int32_t ColumnsSeenByAll(const Tile<P>& t, const KvSegment& segment) {
  int32_t covered = segment.column_begin;
  for (int32_t i = 0; i < segment.spans; ++i) {
    const KvBlockSpan& span = t.Spans(segment)[i];
    if (span.full_begin != segment.row_begin || span.full_end != segment.row_end) break;
    if (span.column != covered) break;
    covered += t.args.kv.stored_tokens;
  }
  return covered;
}

// The first position that a row sees.
ESPALIER_INLINE int32_t FirstSeen(const AttentionArgs& args, int32_t row) {
  return args.window == 0 ? 0 : MaxOf(0, args.row_position[row] - args.window + 1);
}

// Leaves out what lies before the windows of a segment's rows.
template <typename P>
void MaskWindows(const Tile<P>& t, const KvSegment& segment) {
  const Vec unseen = Set1(-__builtin_inff());
  for (int32_t row = segment.row_begin; row < segment.row_end; ++row) {
    const int32_t seen = MinOf(FirstSeen(t.args, row) - segment.position, segment.column_end);
    for (int32_t packed = t.Packed(row); packed < t.Packed(row + 1); ++packed) {
      float* scores = t.Scores(packed);
      int32_t i = segment.column_begin;
      for (; i + kLanes <= seen; i += kLanes) Store(scores + i, unseen);
      for (; i < seen; ++i) scores[i] = -__builtin_inff();
    }
  }
}

template <typename P>
void ScoreSegment(const Tile<P>& t, const KvSegment& segment, KvPrefetcher<P>* prefetcher) {
  const Vec unseen = Set1(-__builtin_inff());
  const int32_t covered = ColumnsSeenByAll(t, segment);
  for (int32_t packed = t.Packed(segment.row_begin); packed < t.Packed(segment.row_end); ++packed) {
    for (int32_t i = covered; i < segment.column_end; i += kLanes) Store(t.Scores(packed) + i, unseen);
  }
  int32_t blocks = 0;
  int32_t run_begin = 0;  // the first span that is not yet multiplied
  for (int32_t i = 0; i < segment.spans; ++i) {
    const KvBlockSpan& span = t.Spans(segment)[i];
    prefetcher->Read(span.block);
    for (int32_t row = span.row_begin; row < span.full_begin; ++row) ScoreRow(t, segment, span, row);
    for (int32_t row = span.full_end; row < span.row_end; ++row) ScoreRow(t, segment, span, row);
    if (span.full_begin == span.full_end) continue;
    t.x.run[blocks++] = {t.KeysOf(span.block), span.column};
    const bool last = i + 1 == segment.spans || t.Spans(segment)[i + 1].full_begin != span.full_begin ||
                      t.Spans(segment)[i + 1].full_end != span.full_end;
    if (!last) continue;
    ScoreRun(t, blocks, t.Packed(span.full_begin), t.Packed(span.full_end), prefetcher);
    blocks = 0;
    for (; run_begin <= i; ++run_begin) {
      if (t.Spans(segment)[run_begin].causal_diagonal) MaskCausalDiagonal(t, t.Spans(segment)[run_begin]);
    }
  }
  if (t.args.window > 0) MaskWindows(t, segment);
}

// Adds P times V to packed rows from `row` on, kPanels times 16 dims at a time from `dim` on, while there are
// so many; returns the first that is left. A run block's data is the line of V at which it begins, its column
// that of P.
template <int32_t kPanels, typename P>
int32_t ValuePanels(const Tile<P>& t, TileRows<P> rows, int32_t count, int32_t row, int32_t dim,
                    int32_t blocks, int32_t lines, KvPrefetcher<P>* prefetcher) {
  for (; dim + kPanels * kLanes <= t.args.stored_dim; dim += kPanels * kLanes) {
    Piece<P> pieces[kMaxPieces];
    for (int32_t p = 0; p < kPanels; ++p) rows.c[p] = t.SegmentOut(row) + dim + p * kLanes;
    for (int32_t begin = 0; begin < blocks; begin += kMaxPieces) {
      const int32_t pieces_here = MinOf(kMaxPieces, blocks - begin);
      for (int32_t i = 0; i < pieces_here; ++i) {
        const RunBlock& block = t.x.run[begin + i];
        const auto* values = static_cast<const typename P::Weight*>(block.data);
        for (int32_t p = 0; p < kPanels; ++p) {
          pieces[i].weights[p] = values + static_cast<int64_t>(dim + p * kLanes) * t.args.kv.stored_tokens;
        }
        pieces[i].operand_offset = block.column;
        pieces[i].lines = lines;
      }
      GemmRows<kPanels>(rows, count, pieces, pieces_here, prefetcher);
    }
  }
  return dim;
}

// `count` packed rows from `row` on times the first `lines` lines of the run's blocks.
template <typename P>
void ValueRun(const Tile<P>& t, const typename P::Operand* probabilities, int64_t stride, int32_t row,
              int32_t count, int32_t blocks, int32_t lines, bool from_zero, KvPrefetcher<P>* prefetcher) {
  TileRows<P> rows;
  rows.a = probabilities;
  rows.a_stride = stride;
  rows.c_stride = t.args.stored_dim;
  rows.from_zero = from_zero;
  int32_t dim = ValuePanels<kTilePanels>(t, rows, count, row, 0, blocks, lines, prefetcher);
  dim = ValuePanels<kHalfPanels>(t, rows, count, row, dim, blocks, lines, prefetcher);
  ValuePanels<1>(t, rows, count, row, dim, blocks, lines, prefetcher);
}

// One row that sees part of a block: its probabilities by slot, zero where it does not see.
template <typename P>
void ValueRow(const Tile<P>& t, const KvSegment& segment, const KvBlockSpan& span, int32_t row,
              KvPrefetcher<P>* prefetcher) {
  const int32_t tokens = t.args.kv.stored_tokens;
  const int32_t packed = t.Packed(row);
  auto* tile = reinterpret_cast<typename P::Operand*>(t.x.tile);
  for (int32_t i = 0; i < t.group * tokens; ++i) tile[i] = 0;
  for (int32_t i = span.first_entry; i < span.first_entry + span.entries; ++i) {
    const PlanEntry& entry = t.args.entries[i];
    for (int32_t token = 0; token < entry.tokens; ++token) {
      if (!Sees(t.args, entry, token, row)) continue;
      const int32_t column = TokenPosition(t.args, entry, token) - segment.position;
      for (int32_t g = 0; g < t.group; ++g) {
        tile[g * tokens + entry.first_kv_slot + token] = t.Probabilities(packed + g)[column];
      }
    }
  }
  const int32_t first = span.kv_slot_begin / P::kStep / P::kGroupLines * P::kGroupLines;
  const int32_t lines = P::WholeLines((span.kv_slot_end + P::kStep - 1) / P::kStep - first);
  const auto* values =
      t.KeysOf(span.block) + t.ValuesOffset() + static_cast<int64_t>(first) * P::kStep * kLanes;
  t.x.run[0] = {values, 0};
  ValueRun(t, tile + first * P::kStep, tokens, packed, t.group, 1, lines, false, prefetcher);
}

// Blocks in the order of the entries: for each row in ascending position.
template <typename P>
void ValueSegment(const Tile<P>& t, const KvSegment& segment, KvPrefetcher<P>* prefetcher) {
  // Rows that all see the first block need no zeros to add to.
  const KvBlockSpan& first = t.Spans(segment)[0];
  bool from_zero = first.full_begin == segment.row_begin && first.full_end == segment.row_end;
  if (!from_zero) {
    const int32_t begin = t.Packed(segment.row_begin);
    const int64_t floats = static_cast<int64_t>(t.Packed(segment.row_end) - begin) * t.args.stored_dim;
    for (int64_t i = 0; i < floats; i += kLanes) Store(t.SegmentOut(begin) + i, Set1(0.0F));
  }
  int32_t blocks = 0;
  int32_t run_begin = 0;
  int32_t run_end = 0;
  for (int32_t i = 0; i <= segment.spans; ++i) {
    const KvBlockSpan span = i < segment.spans ? t.Spans(segment)[i] : KvBlockSpan();
    const bool extends = span.full_begin == run_begin && span.full_end == run_end &&
                         span.row_begin == run_begin && span.row_end == run_end;
    if (blocks > 0 && !extends) {
      const int32_t row = t.Packed(run_begin);
      ValueRun(t, t.Probabilities(row), Tile<P>::kProbabilityStride, row, t.Packed(run_end) - row, blocks,
               t.args.kv.stored_tokens / P::kStep, from_zero, prefetcher);
      from_zero = false;
      blocks = 0;
    }
    if (i < segment.spans) prefetcher->Read(span.block);
    for (int32_t row = span.row_begin; row < span.full_begin; ++row)
      ValueRow(t, segment, span, row, prefetcher);
    for (int32_t row = span.full_end; row < span.row_end; ++row) ValueRow(t, segment, span, row, prefetcher);
    if (span.full_begin == span.full_end) continue;
    run_begin = span.full_begin;
    run_end = span.full_end;
    t.x.run[blocks++] = {t.KeysOf(span.block) + t.ValuesOffset(), span.column};
  }
}

// (out, maximum, sum) of one row and head takes in the partial of a later segment.
void MergePartial(const float* in, float in_max, float in_sum, int32_t stored_dim, float* out, float* out_max,
                  float* out_sum) {
  if (in_sum == 0.0F) return;
  if (*out_sum == 0.0F) {
    for (int32_t i = 0; i < stored_dim; i += kLanes) Store(out + i, Load(in + i));
    *out_max = in_max;
    *out_sum = in_sum;
    return;
  }
  const float maximum = in_max > *out_max ? in_max : *out_max;
  const float floor = -127.0F;
  const float old_exponent = *out_max - maximum;
  const float new_exponent = in_max - maximum;
  const Vec old_scale = PowerOfTwo(Set1(old_exponent > floor ? old_exponent : floor));
  const Vec new_scale = PowerOfTwo(Set1(new_exponent > floor ? new_exponent : floor));
  for (int32_t i = 0; i < stored_dim; i += kLanes) {
    Store(out + i, Add(Mul(Load(out + i), old_scale), Mul(Load(in + i), new_scale)));
  }
  const Vec sum = Add(Mul(Set1(*out_sum), old_scale), Mul(Set1(in_sum), new_scale));
  float lanes[kLanes];
  Store(lanes, sum);
  *out_sum = lanes[0];
  *out_max = maximum;
}

// The head's own dims: the next head's begin right behind them. A sum that is NaN makes NaN of all: a row
// that saw K or Q beyond fp32 has no answer.
void WriteOutput(const float* out, float sum, int32_t head_dim, void* to, int64_t index, bool bf16) {
  const Vec scale = Set1(sum == 0.0F ? 0.0F : 1.0F / sum);
  int32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) StoreOut(to, index + i, bf16, Mul(Load(out + i), scale));
  if (i == head_dim) return;
  float last[kLanes];
  StoreOut(last, 0, bf16, Mul(Load(out + i), scale));
  const int64_t bytes = bf16 ? sizeof(bf16_t) : sizeof(float);
  __builtin_memcpy(static_cast<char*>(to) + (index + i) * bytes, last,
                   static_cast<size_t>((head_dim - i) * bytes));
}

template <typename P>
void WritePartials(const Tile<P>& t, int32_t s) {
  const KvSegment& segment = t.args.segments[s];
  const int32_t stored_dim = t.args.stored_dim;
  for (int32_t row = segment.row_begin; row < segment.row_end; ++row) {
    const int64_t partial = t.item.first_partial +
                            static_cast<int64_t>(s - t.item.first_segment) * t.item.rows +
                            (row - t.item.first_row);
    float* to = t.args.partials + (partial * t.args.query_heads + t.first_head) * (stored_dim + 2);
    for (int32_t g = 0; g < t.group; ++g, to += stored_dim + 2) {
      const int32_t packed = t.Packed(row) + g;
      for (int32_t i = 0; i < stored_dim; i += kLanes) Store(to + i, Load(t.SegmentOut(packed) + i));
      to[stored_dim] = t.x.segment_max[packed];
      to[stored_dim + 1] = t.x.segment_sum[packed];
    }
  }
}

// Before the first segment in which a row of the item sees anything: nothing is read of them.
template <typename P>
int32_t FirstSegment(const Tile<P>& t) {
  const int32_t end = t.item.first_segment + t.item.segments;
  int32_t first_seen = INT32_MAX;
  for (int32_t row = t.item.first_row; row < t.item.first_row + t.item.rows; ++row) {
    first_seen = MinOf(first_seen, FirstSeen(t.args, row));
  }
  int32_t segment = t.item.first_segment;
  while (segment < end && t.args.segments[segment].position + kSegmentTokens <= first_seen) ++segment;
  return segment;
}

// Empty partials of the item's segments before `segment`.
template <typename P>
void ClearPartials(const Tile<P>& t, int32_t segment) {
  const int64_t stride = t.args.stored_dim + 2;
  const int64_t partials = static_cast<int64_t>(segment - t.item.first_segment) * t.item.rows;
  for (int64_t partial = t.item.first_partial; partial < t.item.first_partial + partials; ++partial) {
    float* to = t.args.partials + (partial * t.args.query_heads + t.first_head) * stride;
    for (int32_t g = 0; g < t.group; ++g, to += stride)
      to[t.args.stored_dim] = to[t.args.stored_dim + 1] = 0.0F;
  }
}

template <typename P>
void MergeSegment(const Tile<P>& t, const KvSegment& segment) {
  for (int32_t packed = t.Packed(segment.row_begin); packed < t.Packed(segment.row_end); ++packed) {
    MergePartial(t.SegmentOut(packed), t.x.segment_max[packed], t.x.segment_sum[packed], t.args.stored_dim,
                 t.Out(packed), &t.x.out_max[packed], &t.x.out_sum[packed]);
  }
}

template <typename P>
void WriteOutputs(const Tile<P>& t) {
  const AttentionArgs& args = t.args;
  for (int32_t packed = 0; packed < t.item.rows * t.group; ++packed) {
    const int64_t index = (t.item.first_row + packed / t.group) * args.out_stride +
                          static_cast<int64_t>(t.first_head + packed % t.group) * args.head_dim;
    WriteOutput(t.Out(packed), t.x.out_sum[packed], args.head_dim, args.out, index, args.out_bf16);
  }
}

template <typename P>
void Attend(const AttentionArgs& args, const PlanItem& item, int32_t kv_head,
            const AttentionScratch& scratch) {
  const int32_t group = args.query_heads / args.kv_heads;
  const Tile<P> t = {
      args,    item,
      scratch, static_cast<const typename P::Weight*>(args.kv.data) + kv_head * args.kv.head_stride,
      group,   kv_head * group};
  const int32_t first = FirstSegment(t);
  KvPrefetcher<P> prefetcher(t, first);
  PackQueries(t);
  for (int32_t packed = 0; packed < item.rows * group; ++packed) scratch.out_sum[packed] = 0.0F;
  if (item.first_partial >= 0) ClearPartials(t, first);
  for (int32_t s = first; s < item.first_segment + item.segments; ++s) {
    const KvSegment& segment = args.segments[s];
    if (segment.spans == 0) continue;
    prefetcher.ReadKeys(segment);
    ScoreSegment(t, segment, &prefetcher);
    SoftmaxSegment(t, segment);
    prefetcher.ReadValues();
    ValueSegment(t, segment, &prefetcher);
    if (item.first_partial >= 0) {
      WritePartials(t, s);
    } else {
      MergeSegment(t, segment);
    }
  }
  if (item.first_partial < 0) WriteOutputs(t);
  P::Finish();
}

void MergePartials(const MergeArgs& args) {
  const int64_t stride = args.stored_dim + 2;
  for (int32_t head = 0; head < args.query_heads; ++head) {
    float maximum = 0.0F;
    float sum = 0.0F;
    for (int32_t i = 0; i < args.count; ++i) {
      const float* in =
          args.partials + (static_cast<int64_t>(args.list[i]) * args.query_heads + head) * stride;
      MergePartial(in, in[args.stored_dim], in[args.stored_dim + 1], args.stored_dim, args.scratch, &maximum,
                   &sum);
    }
    WriteOutput(args.scratch, sum, args.head_dim, args.out, static_cast<int64_t>(head) * args.head_dim,
                args.out_bf16);
  }
}

}  // namespace
}  // namespace espalier::cpu
