#pragma once

#include "kernels/device/kernel_args.h"

// Where kernels with much state keep it in shared memory.
namespace espalier::device {

inline constexpr int32_t kSoftmaxParts = 8;  // threads that share a row's softmax
// Floats between rows of scores: neighbouring rows begin 8 banks apart, so that the parts of four rows meet
// in no bank.
inline constexpr int32_t kScoreStride = kSegmentTokens + kSoftmaxParts;

// Offsets in floats.
struct AttentionLayout {
  int32_t queries = 0;      // [packed rows][stored_dim]
  int32_t out = 0;          // the same: what earlier segments gave
  int32_t scores = 0;       // [packed rows][kScoreStride], then probabilities
  int32_t part_max = 0;     // [packed rows][kSoftmaxParts]
  int32_t part_sum = 0;     // the same
  int32_t segment_max = 0;  // [packed rows], integers, base 2
  int32_t segment_sum = 0;
  int32_t out_max = 0;
  int32_t out_sum = 0;
  int32_t floats = 0;

  constexpr AttentionLayout(int32_t packed_rows, int32_t stored_dim) {
    out = queries + packed_rows * stored_dim;
    scores = out + packed_rows * stored_dim;
    part_max = scores + packed_rows * kScoreStride;
    part_sum = part_max + packed_rows * kSoftmaxParts;
    segment_max = part_sum + packed_rows * kSoftmaxParts;
    segment_sum = segment_max + packed_rows;
    out_max = segment_sum + packed_rows;
    out_sum = out_max + packed_rows;
    floats = out_sum + packed_rows;
  }
};

inline int64_t AttentionSharedBytes(int32_t packed_rows, int32_t stored_dim) {
  return int64_t{AttentionLayout(packed_rows, stored_dim).floats} * static_cast<int64_t>(sizeof(float));
}

inline LaunchShape AttentionArgs::Shape() const {
  return {int64_t{items} * layout.kv_heads * tiles_per_group,
          AttentionSharedBytes(packed_rows, layout.stored_dim)};
}

// State of one sample.
struct SampleShared {
  uint64_t histogram[256];
  uint64_t range_mass[kThreads];
  int32_t range_count[kThreads];
  float range_max[kThreads];
  int32_t range_argmax[kThreads];
  uint64_t total;
  uint64_t needed;
  uint32_t threshold;
  int32_t found;
  int32_t token;
  float max;
  int32_t argmax;
};

inline LaunchShape SampleArgs::Shape() const {
  return {MinOf(int64_t{count}, kSampleBlocks), static_cast<int64_t>(sizeof(SampleShared))};
}

}  // namespace espalier::device
