// For kernels_*.cpp only, after gemm_types.h: everything has internal linkage.
#pragma once

namespace espalier::cpu {
namespace {

// A run of an item's entries that lie in one segment of kSegmentTokens positions.
struct Segment {
  int32_t index = 0;        // position / kSegmentTokens
  int32_t first_entry = 0;  // into AttentionArgs::entries
  int32_t end_entry = 0;
  int32_t visits = 0;
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

constexpr int32_t kAllSlots = INT32_MIN / 2;  // BlockVisit::stair_row of cached tokens

// The visit of one entry alone; also widens the segment's columns.
BlockVisit VisitOf(const AttentionArgs& args, const PlanEntry& entry, int32_t index, Segment* segment) {
  BlockVisit visit;
  visit.first_entry = index;
  visit.entries = 1;
  visit.block = entry.block;
  visit.slot_begin = entry.first_slot;
  visit.slot_end = entry.first_slot + entry.tokens;
  visit.row_begin = visit.direct_begin = entry.row_begin;
  visit.row_end = visit.direct_end = entry.row_end;
  const int32_t first = TokenPosition(args, entry, 0);
  visit.column = first - entry.first_slot - segment->position();
  if (entry.first_own_row < 0) {
    visit.stair_row = kAllSlots;
    segment->column_begin = MinOf(segment->column_begin, first - segment->position());
    segment->column_end = MaxOf(segment->column_end, first + entry.tokens - segment->position());
    return visit;
  }
  visit.stair_row = entry.first_own_row - entry.first_slot;
  visit.direct_begin = MaxOf(visit.direct_begin, entry.first_own_row + entry.tokens - 1);
  for (int32_t token = 0; token < entry.tokens; ++token) {
    const int32_t position = TokenPosition(args, entry, token);
    segment->column_begin = MinOf(segment->column_begin, position - segment->position());
    segment->column_end = MaxOf(segment->column_end, position - segment->position() + 1);
    visit.direct_end = MinOf(visit.direct_end, args.row_subtree_end[entry.first_own_row + token]);
    if (position != first + token) visit.direct_end = visit.direct_begin;
  }
  if (visit.direct_end != visit.row_end) visit.stair_row = kNoStairs;  // rows that do not see all of a path
  return visit;
}

// Cached tokens and those of this step may share a block: their pairs are then multiplied in one go, as they
// are once all of them are cached.
bool Joins(const BlockVisit& last, const BlockVisit& next) {
  return last.block == next.block && last.slot_end == next.slot_begin && last.column == next.column;
}

void Join(BlockVisit* last, const BlockVisit& next) {
  ++last->entries;
  last->slot_end = next.slot_end;
  last->row_begin = MinOf(last->row_begin, next.row_begin);
  last->row_end = MaxOf(last->row_end, next.row_end);
  last->direct_begin = MaxOf(last->direct_begin, next.direct_begin);
  last->direct_end = MinOf(last->direct_end, next.direct_end);
  const bool one_stair = last->stair_row == kAllSlots || last->stair_row == next.stair_row;
  last->stair_row = one_stair ? next.stair_row : kNoStairs;
}

// Whether the visit's rows may be multiplied with all slots of the block: nothing that they see lies in the
// columns of those they do not. Rows of later visits begin at or after those of earlier ones.
bool MakesStairs(const AttentionArgs& args, const BlockVisit& visit, const BlockVisit* next) {
  if (visit.stair_row == kNoStairs || visit.slot_begin != 0 || visit.direct_end != visit.row_end)
    return false;
  if (visit.column + args.kv.stored_tokens > kSegmentTokens) return false;
  return visit.slot_end == args.kv.stored_tokens || next == nullptr || next->row_begin >= visit.row_end;
}

// Reads the entries from `first_entry` on that lie in one segment; fills x.visits.
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
    const BlockVisit visit = VisitOf(args, entry, index, &segment);
    BlockVisit* last = segment.visits > 0 ? &x.visits[segment.visits - 1] : nullptr;
    if (last != nullptr && last->first_entry + last->entries == index && Joins(*last, visit)) {
      Join(last, visit);
    } else {
      x.visits[segment.visits++] = visit;
    }
  }
  segment.end_entry = index;
  segment.column_begin = segment.column_begin / kLanes * kLanes;
  segment.column_end = (segment.column_end + kLanes - 1) / kLanes * kLanes;
  for (int32_t i = 0; i < segment.visits; ++i) {
    BlockVisit& visit = x.visits[i];
    const bool whole = visit.slot_begin == 0 && visit.slot_end == args.kv.stored_tokens;
    const bool aligned = visit.column >= 0 && visit.column % kLanes == 0;
    const bool all_direct =
        whole && visit.direct_begin <= visit.row_begin && visit.direct_end == visit.row_end;
    if (aligned && !all_direct &&
        MakesStairs(args, visit, i + 1 < segment.visits ? &x.visits[i + 1] : nullptr)) {
      visit.stairs = true;
      visit.direct_begin = visit.row_begin;
      visit.direct_end = visit.row_end;
      segment.column_end = MaxOf(segment.column_end, visit.column + args.kv.stored_tokens);
      continue;
    }
    if (!whole || !aligned || visit.direct_end <= visit.direct_begin) {
      visit.direct_begin = visit.direct_end = visit.row_begin;
    }
  }
  return segment;
}

}  // namespace
}  // namespace espalier::cpu
