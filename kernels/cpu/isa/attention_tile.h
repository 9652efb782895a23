// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/attention_spans.h"
#include "kernels/cpu/isa/tiles.h"

// What the parts of attention share: the memory of an item, and the stream of KV that register tiles
// prefetch while they multiply other KV.
namespace espalier::cpu {
namespace {

constexpr int32_t kMaxPieces = kSegmentTokens / kLanes;

template <typename P>
struct Tile {
  using Weight = typename P::Weight;
  using Operand = typename P::Operand;
  static constexpr int64_t kProbabilityStride =
      kScoreStride * static_cast<int64_t>(sizeof(float)) / static_cast<int64_t>(sizeof(Operand));

  const AttentionArgs& args;
  const PlanItem& item;
  const AttentionScratch& x;
  const Weight* kv;  // this head's blocks
  int32_t group;
  int32_t first_head;

  int32_t Packed(int32_t row) const { return (row - item.first_row) * group; }
  Operand* Queries(int32_t packed) const {
    return static_cast<Operand*>(x.queries) + static_cast<int64_t>(packed) * args.stored_dim;
  }
  float* Scores(int32_t packed) const { return x.scores + packed * kScoreStride; }
  Operand* Probabilities(int32_t packed) const { return reinterpret_cast<Operand*>(Scores(packed)); }
  float* SegmentOut(int32_t packed) const {
    return x.segment_out + static_cast<int64_t>(packed) * args.stored_dim;
  }
  float* Out(int32_t packed) const { return x.out + static_cast<int64_t>(packed) * args.stored_dim; }
  const KvBlockSpan* Spans(const KvSegment& segment) const { return args.spans + segment.first_span; }
  const Weight* KeysOf(int32_t block) const { return kv + block * args.kv.block_stride; }
  int64_t ValuesOffset() const { return static_cast<int64_t>(args.kv.stored_tokens) * args.stored_dim; }
};

// The KV of an item, prefetched by register tiles between the additions to what came before. Parts (16
// tokens of K, or as much of V) are prefetched P::kPrefetchDistanceParts before they are read, in the order
// in which they lie where a segment is small enough: each block's keys and values. Otherwise the segment's
// keys come first, then its values, as they are read. A tile of few rows prefetches as much as it reads;
// taller ones need less.
template <typename P>
class KvPrefetcher {
 public:
  // From segment `first` of the plan on.
  KvPrefetcher(const Tile<P>& t, int32_t first)
      : t_(t),
        parts_per_block_(t.args.kv.stored_tokens / kLanes),
        part_bytes_(int64_t{kLanes} * t.args.stored_dim * static_cast<int64_t>(sizeof(typename P::Weight))) {
    BeginSegment(first);
  }

  // What Read says from now on are the keys of a segment; then its values.
  void ReadKeys(const KvSegment& segment) {
    read_block_ = -1;
    together_read_ = IsTogether(segment);
    segment_read_ = read_;
  }
  void ReadValues() {
    read_block_ = -1;
    together_read_ = false;
  }
  // This block's keys (or values) are read next.
  ESPALIER_INLINE void Read(int32_t block) {
    if (block == read_block_) return;
    read_block_ = block;
    read_ += parts_per_block_;
    // Keys lie behind the values of the blocks before.
    const int32_t needed = together_read_ ? 2 * read_ - segment_read_ - parts_per_block_ : read_;
    if (prefetched_ < needed) PrefetchNow(needed);
  }

  // For GemmRows: the tallest tiles there are. Of a line of each panel that a tile multiplies it prefetches
  // as many lines as it reads where it is low, half as many where another one of the same rows follows.
  template <int32_t kRows, int32_t kPanels>
  static constexpr int32_t kPrefetchLines = kRows > 4 ? (kPanels + 1) / 2 : kPanels;

  template <int32_t kSizes>
  static int32_t RowsOfNext(const int32_t (&)[kSizes], int32_t rows) {
    return rows;
  }

  __attribute__((noinline)) void Take(int32_t lines, Piece<P>* pieces, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      const char* taken = TakeBytes(int64_t{64} * lines * pieces[i].lines);
      // What has just been read is in the cache.
      pieces[i].prefetch = taken != nullptr ? taken : reinterpret_cast<const char*>(pieces[i].weights[0]);
      pieces[i].prefetch_step = int64_t{64} * lines;
    }
  }

 private:
  static bool IsTogether(const KvSegment& segment) {
    return segment.end_entry - segment.first_entry <= P::kTogetherEntries;
  }

  // So many bytes to prefetch now; null if enough are prefetched.
  ESPALIER_INLINE const char* TakeBytes(int64_t bytes) {
    if (left_ <= 0 && !NextPart()) return nullptr;
    const char* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }

  // What is read now has not been prefetched yet: all of it at once.
  __attribute__((noinline)) void PrefetchNow(int32_t needed) {
    while (prefetched_ < needed && NextPart()) {
      for (int64_t i = 0; i < part_bytes_; i += 64) __builtin_prefetch(next_ + i, 0, 3);
    }
    left_ = 0;
  }

  bool NextPart() {
    if (prefetched_ - read_ >= P::kPrefetchDistanceParts) return false;
    if (block_parts_ == 0 && !NextBlock()) return false;
    next_ = block_next_;
    left_ = part_bytes_;
    block_next_ += part_bytes_;
    --block_parts_;
    ++prefetched_;
    return true;
  }

  bool NextBlock() {
    const int32_t end = t_.item.first_segment + t_.item.segments;
    while (segment_ < end) {
      const KvSegment& segment = t_.args.segments[segment_];
      const bool together = IsTogether(segment);
      for (; entry_ < segment.end_entry; ++entry_) {
        const PlanEntry& entry = t_.args.entries[entry_];
        if (entry.block == block_ || entry.row_begin >= entry.row_end) continue;
        block_ = entry.block;
        block_next_ = reinterpret_cast<const char*>(t_.KeysOf(block_) + (values_ ? t_.ValuesOffset() : 0));
        block_parts_ = together ? 2 * parts_per_block_ : parts_per_block_;
        return true;
      }
      if (together || values_) {
        BeginSegment(segment_ + 1);
      } else {
        values_ = true;
        entry_ = segment.first_entry;
      }
      block_ = -1;
    }
    return false;
  }

  void BeginSegment(int32_t segment) {
    segment_ = segment;
    if (segment < t_.item.first_segment + t_.item.segments) entry_ = t_.args.segments[segment].first_entry;
    values_ = false;
  }

  const Tile<P>& t_;
  int32_t parts_per_block_;
  int64_t part_bytes_;

  // What is read: parts so far, and when the segment began.
  int32_t read_block_ = -1;
  int32_t read_ = 0;
  int32_t segment_read_ = 0;
  bool together_read_ = false;  // these are keys of a segment whose values came with them

  // What is prefetched.
  int32_t prefetched_ = 0;  // parts
  int32_t segment_ = 0;     // of the plan
  int32_t entry_ = 0;       // the next to be looked at
  bool values_ = false;
  int32_t block_ = -1;
  const char* block_next_ = nullptr;  // the part of the block that comes next
  int32_t block_parts_ = 0;           // left of the block
  const char* next_ = nullptr;
  int64_t left_ = 0;
};

}  // namespace
}  // namespace espalier::cpu
