// For kernels_*.cpp only, after attention_visits.h: everything has internal linkage.
#pragma once

// What the parts of attention share: the memory of an item, and the stream of KV that register tiles bring
// nearer while they multiply other KV.
namespace espalier::cpu {
namespace {

constexpr int32_t kMostPieces = kSegmentTokens / kLanes;

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
    return static_cast<Operand*>(x.queries) + static_cast<int64_t>(packed) * args.head_dim;
  }
  float* Scores(int32_t packed) const { return x.scores + packed * kScoreStride; }
  Operand* Probabilities(int32_t packed) const { return reinterpret_cast<Operand*>(Scores(packed)); }
  float* SegmentOut(int32_t packed) const {
    return x.segment_out + static_cast<int64_t>(packed) * args.head_dim;
  }
  float* Out(int32_t packed) const { return x.out + static_cast<int64_t>(packed) * args.head_dim; }
  const Weight* KeysOf(int32_t block) const { return kv + block * args.kv.block_stride; }
  int64_t ValuesOffset() const { return static_cast<int64_t>(args.kv.stored_tokens) * args.head_dim; }
};

// The KV of an item in the order in which it is read: the keys of a segment, its values, the keys of the next
// one. Parts (16 tokens of K, or as much of V) are brought nearer P::kAheadParts before they are read, by
// register tiles, between their products. A tile of few rows brings as much as it reads; taller ones need
// less.
template <typename P>
class Bringer {
 public:
  explicit Bringer(const Tile<P>& t)
      : t_(t),
        parts_per_block_(t.args.kv.stored_tokens / kLanes),
        part_bytes_(int64_t{kLanes} * t.args.head_dim * static_cast<int64_t>(sizeof(typename P::Weight))),
        part_(parts_per_block_),
        segment_begin_(t.item.first_entry),
        entry_(t.item.first_entry) {}

  // This block's keys are read next; or, after PhaseDone, its values.
  ESPALIER_INLINE void Read(int32_t block) {
    if (block == read_block_) return;
    read_block_ = block;
    ahead_ -= parts_per_block_;
    if (ahead_ < 0) Hurry();
  }
  // All keys or values of the segment have been read.
  void PhaseDone() { read_block_ = -1; }

  // For MultiplyRows: the tallest tiles there are. Of a line of each panel that a tile multiplies it brings
  // as many lines as it reads where it is low, half as many where another one of the same rows follows.
  template <int32_t kRows, int32_t kPanels>
  static constexpr int32_t kAheadLines = kRows > 4 ? (kPanels + 1) / 2 : kPanels;

  template <int32_t kSizes>
  static int32_t RowsOfNext(const int32_t (&)[kSizes], int32_t rows) {
    return rows;
  }

  __attribute__((noinline)) void Take(int32_t lines, Piece<P>* pieces, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      const char* taken = TakeBytes(int64_t{64} * lines * pieces[i].lines);
      // What has just been read is as near as can be.
      pieces[i].ahead = taken != nullptr ? taken : reinterpret_cast<const char*>(pieces[i].weights[0]);
      pieces[i].ahead_step = int64_t{64} * lines;
    }
  }

 private:
  // So many bytes to be brought nearer now; null if enough are.
  ESPALIER_INLINE const char* TakeBytes(int64_t bytes) {
    if (left_ <= 0 && !NextPart()) return nullptr;
    const char* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }

  // What is read now has not been brought yet: all of it at once.
  __attribute__((noinline)) void Hurry() {
    while (ahead_ < 0 && NextPart()) {
      for (int64_t i = 0; i < part_bytes_; i += 64) __builtin_prefetch(next_ + i, 0, 3);
    }
    left_ = 0;
  }

  bool NextPart() {
    if (ahead_ >= P::kAheadParts) return false;
    if (part_ == parts_per_block_ && !NextBlock()) return false;
    next_ = reinterpret_cast<const char*>(t_.KeysOf(block_)) +
            (values_ ? parts_per_block_ * part_bytes_ : 0) + part_ * part_bytes_;
    left_ = part_bytes_;
    ++part_;
    ++ahead_;
    return true;
  }

  bool NextBlock() {
    const int32_t end = t_.item.first_entry + t_.item.entries;
    const PlanEntry* entries = t_.args.entries;
    while (segment_begin_ < end) {
      const int32_t segment = entries[segment_begin_].position / kSegmentTokens;
      for (; entry_ < end && entries[entry_].position / kSegmentTokens == segment; ++entry_) {
        const PlanEntry& entry = entries[entry_];
        if (entry.block == block_ || !IsSeen(entry)) continue;
        block_ = entry.block;
        part_ = 0;
        return true;
      }
      if (values_) segment_begin_ = entry_;
      entry_ = segment_begin_;
      values_ = !values_;
      block_ = -1;
    }
    return false;
  }

  const Tile<P>& t_;
  int32_t parts_per_block_;
  int64_t part_bytes_;
  int32_t part_;  // the next of the block
  int32_t segment_begin_;
  int32_t entry_;  // the next to be looked at
  bool values_ = false;
  int32_t block_ = -1;
  int32_t read_block_ = -1;
  int32_t ahead_ = 0;  // parts brought and not read
  const char* next_ = nullptr;
  int64_t left_ = 0;
};

}  // namespace
}  // namespace espalier::cpu
