// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/gemm_types.h"

namespace espalier::cpu {
namespace {

// A run of an item's entries that lie in one segment of kSegmentTokens positions.
struct Segment {
  int32_t index = 0;        // position / kSegmentTokens
  int32_t first_entry = 0;  // into AttentionArgs::entries
  int32_t end_entry = 0;
  int32_t spans = 0;
  int32_t row_begin = 0;  // union of the entries' rows
  int32_t row_end = 0;
  int32_t column_begin = 0;  // of scores in use, multiples of 16
  int32_t column_end = 0;

  int32_t position() const { return index * kSegmentTokens; }
};

ESPALIER_INLINE int32_t MinOf(int32_t a, int32_t b) { return a < b ? a : b; }
ESPALIER_INLINE int32_t MaxOf(int32_t a, int32_t b) { return a > b ? a : b; }

// Position of an entry's token.
ESPALIER_INLINE int32_t TokenPosition(const AttentionArgs& args, const PlanEntry& entry, int32_t token) {
  return entry.first_own_row < 0 ? entry.position + token : args.row_position[entry.first_own_row + token];
}

ESPALIER_INLINE bool Sees(const AttentionArgs& args, const PlanEntry& entry, int32_t token, int32_t row) {
  if (row < entry.row_begin || row >= entry.row_end) return false;
  if (entry.first_own_row < 0) return true;
  const int32_t own = entry.first_own_row + token;
  return row >= own && row < args.row_subtree_end[own];
}

ESPALIER_INLINE bool IsSeen(const PlanEntry& entry) {
  return entry.row_begin < entry.row_end && entry.tokens > 0;
}

constexpr int32_t kAllKvSlots = INT32_MIN / 2;  // KvBlockSpan::diagonal_row of cached tokens

// The span of one entry alone; also widens the segment's columns.
KvBlockSpan SpanOf(const AttentionArgs& args, const PlanEntry& entry, int32_t index, Segment* segment) {
  KvBlockSpan span;
  span.first_entry = index;
  span.entries = 1;
  span.block = entry.block;
  span.kv_slot_begin = entry.first_kv_slot;
  span.kv_slot_end = entry.first_kv_slot + entry.tokens;
  span.row_begin = span.full_begin = entry.row_begin;
  span.row_end = span.full_end = entry.row_end;
  const int32_t first = TokenPosition(args, entry, 0);
  span.column = first - entry.first_kv_slot - segment->position();
  if (entry.first_own_row < 0) {
    span.diagonal_row = kAllKvSlots;
    segment->column_begin = MinOf(segment->column_begin, first - segment->position());
    segment->column_end = MaxOf(segment->column_end, first + entry.tokens - segment->position());
    return span;
  }
  span.diagonal_row = entry.first_own_row - entry.first_kv_slot;
  span.full_begin = MaxOf(span.full_begin, entry.first_own_row + entry.tokens - 1);
  for (int32_t token = 0; token < entry.tokens; ++token) {
    const int32_t position = TokenPosition(args, entry, token);
    segment->column_begin = MinOf(segment->column_begin, position - segment->position());
    segment->column_end = MaxOf(segment->column_end, position - segment->position() + 1);
    span.full_end = MinOf(span.full_end, args.row_subtree_end[entry.first_own_row + token]);
    if (position != first + token) span.full_end = span.full_begin;
  }
  if (span.full_end != span.row_end)
    span.diagonal_row = kNoCausalDiagonal;  // rows that do not see all of a path
  return span;
}

// Cached tokens and those of this step may share a block: their pairs are then multiplied in one go, as they
// are once all of them are cached.
bool Joins(const KvBlockSpan& last, const KvBlockSpan& next) {
  return last.block == next.block && last.kv_slot_end == next.kv_slot_begin && last.column == next.column;
}

void Join(KvBlockSpan* last, const KvBlockSpan& next) {
  ++last->entries;
  last->kv_slot_end = next.kv_slot_end;
  last->row_begin = MinOf(last->row_begin, next.row_begin);
  last->row_end = MaxOf(last->row_end, next.row_end);
  last->full_begin = MaxOf(last->full_begin, next.full_begin);
  last->full_end = MinOf(last->full_end, next.full_end);
  const bool one_diagonal = last->diagonal_row == kAllKvSlots || last->diagonal_row == next.diagonal_row;
  last->diagonal_row = one_diagonal ? next.diagonal_row : kNoCausalDiagonal;
}

// Whether the span's rows may be multiplied with all KV slots of the block: nothing that they see lies in the
// columns of those they do not. Rows of later spans begin at or after those of earlier ones.
bool IsCausalDiagonal(const AttentionArgs& args, const KvBlockSpan& span, const KvBlockSpan* next) {
  if (span.diagonal_row == kNoCausalDiagonal || span.kv_slot_begin != 0 || span.full_end != span.row_end)
    return false;
  if (span.column + args.kv.stored_tokens > kSegmentTokens) return false;
  return span.kv_slot_end == args.kv.stored_tokens || next == nullptr || next->row_begin >= span.row_end;
}

// Reads the entries from `first_entry` on that lie in one segment; fills x.spans.
Segment ReadSegment(const AttentionArgs& args, const AttentionScratch& x, int32_t first_entry,
                    int32_t end_entry) {
  Segment segment;
  segment.index = args.entries[first_entry].position / kSegmentTokens;
  segment.first_entry = first_entry;
  segment.column_begin = kSegmentTokens;
  segment.row_begin = INT32_MAX;
  int32_t index = first_entry;
  for (; index < end_entry; ++index) {
    const PlanEntry& entry = args.entries[index];
    if (entry.position / kSegmentTokens != segment.index) break;
    if (!IsSeen(entry)) continue;
    segment.row_begin = MinOf(segment.row_begin, entry.row_begin);
    segment.row_end = MaxOf(segment.row_end, entry.row_end);
    const KvBlockSpan span = SpanOf(args, entry, index, &segment);
    KvBlockSpan* last = segment.spans > 0 ? &x.spans[segment.spans - 1] : nullptr;
    if (last != nullptr && last->first_entry + last->entries == index && Joins(*last, span)) {
      Join(last, span);
    } else {
      x.spans[segment.spans++] = span;
    }
  }
  segment.end_entry = index;
  segment.column_begin = segment.column_begin / kLanes * kLanes;
  segment.column_end = (segment.column_end + kLanes - 1) / kLanes * kLanes;
  for (int32_t i = 0; i < segment.spans; ++i) {
    KvBlockSpan& span = x.spans[i];
    const bool whole = span.kv_slot_begin == 0 && span.kv_slot_end == args.kv.stored_tokens;
    const bool aligned = span.column >= 0 && span.column % kLanes == 0;
    const bool fully_visible = whole && span.full_begin <= span.row_begin && span.full_end == span.row_end;
    if (aligned && !fully_visible &&
        IsCausalDiagonal(args, span, i + 1 < segment.spans ? &x.spans[i + 1] : nullptr)) {
      span.causal_diagonal = true;
      span.full_begin = span.row_begin;
      span.full_end = span.row_end;
      segment.column_end = MaxOf(segment.column_end, span.column + args.kv.stored_tokens);
      continue;
    }
    if (!whole || !aligned || span.full_end <= span.full_begin) {
      span.full_begin = span.full_end = span.row_begin;
    }
  }
  return segment;
}

}  // namespace
}  // namespace espalier::cpu
