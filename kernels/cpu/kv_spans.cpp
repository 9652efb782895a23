#include "kernels/cpu/kv_spans.h"

#include <algorithm>

namespace espalier::cpu {

namespace {

constexpr int32_t kAllKvSlots = INT32_MIN / 2;  // KvBlockSpan::diagonal_row of cached tokens

// Builds the spans of one segment.
class SpanBuilder {
 public:
  SpanBuilder(const TreeBatch& batch, const AttentionPlan& plan, int32_t stored_tokens,
              std::vector<KvBlockSpan>* spans)
      : batch_(batch), plan_(plan), stored_tokens_(stored_tokens), spans_(*spans) {}

  KvSegment Build(const PlanSegment& from) {
    KvSegment segment;
    segment.position = from.index * kSegmentTokens;
    segment.first_entry = from.first_entry;
    segment.end_entry = from.first_entry + from.entries;
    segment.first_span = static_cast<int32_t>(spans_.size());
    segment.row_begin = from.row_begin;
    segment.row_end = from.row_end;
    segment.column_begin = from.column_begin / kLanes * kLanes;
    segment.column_end = (from.column_end + kLanes - 1) / kLanes * kLanes;
    for (int32_t i = segment.first_entry; i < segment.end_entry; ++i) {
      const PlanEntry& entry = plan_.entries[static_cast<size_t>(i)];
      if (entry.row_begin < entry.row_end) AddEntry(entry, i, segment);
    }
    segment.spans = static_cast<int32_t>(spans_.size()) - segment.first_span;
    for (int32_t i = segment.first_span; i < segment.first_span + segment.spans; ++i) Finish(i, &segment);
    return segment;
  }

 private:
  void AddEntry(const PlanEntry& entry, int32_t index, const KvSegment& segment) {
    const KvBlockSpan span = SpanOf(entry, index, segment.position);
    const bool first = static_cast<int32_t>(spans_.size()) == segment.first_span;
    if (!first && spans_.back().first_entry + spans_.back().entries == index && Joins(spans_.back(), span)) {
      Join(&spans_.back(), span);
    } else {
      spans_.push_back(span);
    }
  }

  // The span of one entry alone.
  KvBlockSpan SpanOf(const PlanEntry& entry, int32_t index, int32_t segment_position) const {
    KvBlockSpan span;
    span.first_entry = index;
    span.entries = 1;
    span.block = entry.block;
    span.kv_slot_begin = entry.first_kv_slot;
    span.kv_slot_end = entry.first_kv_slot + entry.tokens;
    span.row_begin = span.full_begin = entry.row_begin;
    span.row_end = span.full_end = entry.row_end;
    span.column = entry.position - entry.first_kv_slot - segment_position;
    if (entry.first_own_row < 0) {
      span.diagonal_row = kAllKvSlots;
      return span;
    }
    span.diagonal_row = entry.first_own_row - entry.first_kv_slot;
    span.full_begin = std::max(span.full_begin, entry.first_own_row + entry.tokens - 1);
    for (int32_t token = 0; token < entry.tokens; ++token) {
      const auto own = static_cast<size_t>(entry.first_own_row + token);
      span.full_end = std::min(span.full_end, batch_.row_subtree_end[own]);
      if (batch_.row_position[own] != entry.position + token) span.full_end = span.full_begin;
    }
    if (span.full_end != span.row_end)
      span.diagonal_row = kNoCausalDiagonal;  // rows that do not see all of a path
    return span;
  }

  // Cached tokens and those of this step may share a block: their pairs are then multiplied in one go, as
  // they are once all of them are cached.
  static bool Joins(const KvBlockSpan& last, const KvBlockSpan& next) {
    return last.block == next.block && last.kv_slot_end == next.kv_slot_begin && last.column == next.column;
  }

  static void Join(KvBlockSpan* last, const KvBlockSpan& next) {
    ++last->entries;
    last->kv_slot_end = next.kv_slot_end;
    last->row_begin = std::min(last->row_begin, next.row_begin);
    last->row_end = std::max(last->row_end, next.row_end);
    last->full_begin = std::max(last->full_begin, next.full_begin);
    last->full_end = std::min(last->full_end, next.full_end);
    const bool one_diagonal = last->diagonal_row == kAllKvSlots || last->diagonal_row == next.diagonal_row;
    last->diagonal_row = one_diagonal ? next.diagonal_row : kNoCausalDiagonal;
  }

  // Whether the span's rows may be multiplied with all KV slots of the block: nothing that they see lies in
  // the columns of those they do not. Rows of later spans begin at or after those of earlier ones.
  bool IsCausalDiagonal(const KvBlockSpan& span, const KvBlockSpan* next) const {
    if (span.diagonal_row == kNoCausalDiagonal || span.kv_slot_begin != 0 || span.full_end != span.row_end)
      return false;
    if (span.column + stored_tokens_ > kSegmentTokens) return false;
    return span.kv_slot_end == stored_tokens_ || next == nullptr || next->row_begin >= span.row_end;
  }

  // All spans of the segment are there: which rows see one fully.
  void Finish(int32_t index, KvSegment* segment) {
    KvBlockSpan& span = spans_[static_cast<size_t>(index)];
    const bool whole = span.kv_slot_begin == 0 && span.kv_slot_end == stored_tokens_;
    const bool aligned = span.column >= 0 && span.column % kLanes == 0;
    const bool fully_visible = whole && span.full_begin <= span.row_begin && span.full_end == span.row_end;
    const bool last = index + 1 == segment->first_span + segment->spans;
    if (aligned && !fully_visible && IsCausalDiagonal(span, last ? nullptr : &span + 1)) {
      span.causal_diagonal = true;
      span.full_begin = span.row_begin;
      span.full_end = span.row_end;
      segment->column_end = std::max(segment->column_end, span.column + stored_tokens_);
      return;
    }
    if (!whole || !aligned || span.full_end <= span.full_begin)
      span.full_begin = span.full_end = span.row_begin;
  }

  const TreeBatch& batch_;
  const AttentionPlan& plan_;
  int32_t stored_tokens_;
  std::vector<KvBlockSpan>& spans_;
};

}  // namespace

void StepKvSpans::Build(const TreeBatch& batch, const AttentionPlan& plan, int32_t stored_tokens) {
  segments_.clear();
  segments_.reserve(plan.segments.size());
  spans_.clear();
  spans_.reserve(plan.entries.size());
  max_segment_spans_ = 0;
  SpanBuilder builder(batch, plan, stored_tokens, &spans_);
  for (const PlanSegment& segment : plan.segments) {
    segments_.push_back(builder.Build(segment));
    max_segment_spans_ = std::max(max_segment_spans_, segments_.back().spans);
  }
}

}  // namespace espalier::cpu
