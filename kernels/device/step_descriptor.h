#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device/device_code.h"
#include "kernels/plan/attention_plan.h"

// What the device learns about a step: one run of bytes, copied once, whose fixed header says where
// everything lies. The same for all layers and heads.
namespace espalier::device {

template <typename T>
struct DescriptorArray {
  int64_t offset = 0;  // bytes from the beginning of the descriptor, a multiple of 16
  int32_t count = 0;
  int32_t padding = 0;
};

struct DescriptorRow {
  int32_t token_id = -1;  // >= 0, or the last token sampled for `sequence_slot`
  int32_t sequence_slot = -1;
  int32_t position = 0;
  int32_t subtree_end = 0;  // the row's own token is seen by rows [row, subtree_end)
  int32_t kv_block = 0;     // where the row's K and V go
  int32_t kv_slot = 0;
};

// A tile of rows over the runs [first_run, first_run + runs), one for each segment that it meets.
struct DescriptorItem {
  int32_t first_run = 0;
  int32_t runs = 0;
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_partial = -1;  // as PlanItem
};

// The entries of an item that lie in one segment of kSegmentTokens positions; one for each PlanSegment.
struct DescriptorRun {
  int32_t first_entry = 0;
  int32_t entries = 0;  // 0: no row sees anything of it
  int32_t segment = 0;
  int32_t first_partial = -1;  // of the item's first row; -1: the item has none
  int32_t columns = 0;         // tokens lie in columns [0, columns) of the segment
  int32_t row_lo = 0;          // union of the entries' rows, relative to the item's first
  int32_t row_hi = 0;
};

// A run of tokens of one block. Entries that no row of the item sees are left out.
struct DescriptorEntry {
  int32_t block = 0;
  int32_t position = 0;
  int32_t first_own_row = -1;  // as PlanEntry: >= 0 for tokens written in this step
  uint16_t first_kv_slot = 0;
  uint16_t tokens = 0;
  uint16_t row_lo = 0;  // relative to the item's first row
  uint16_t row_hi = 0;
};

// Row `row` of the step merges partials[first .. first + count).
struct DescriptorMerge {
  int32_t row = 0;
  int32_t first = 0;
  int32_t count = 0;
};

struct DescriptorCopy {
  int32_t source = 0;
  int32_t destination = 0;
  int32_t tokens = 0;
};

// A token of a path and how often it was generated there; 0: it occurs in the prompt only.
struct DescriptorCount {
  int32_t token_id = 0;
  int32_t count = 0;
};

struct DescriptorBias {
  int32_t token_id = 0;
  float bias = 0.0F;
};

// One token to sample. The random number is the host's: it depends on the stream and the position alone.
struct DescriptorSample {
  double uniform = 0.0;
  double top_p = 1.0;
  float inverse_temperature = 0.0F;  // 0: greedy
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  int32_t top_k = 0;
  int32_t logit_row = 0;  // of the step
  int32_t sequence_slot = 0;
  int32_t first_bias = 0;
  int32_t biases = 0;  // those of one token side by side, added in their order
  int32_t first_count = 0;
  int32_t counts = 0;  // each token at most once
  int32_t counts_last =
      0;  // 1: the sequence's last token was sampled after the counts were taken, and counts too
  int32_t uses_history = 0;  // 1: penalties apply
};

struct DescriptorScore {
  int32_t logit_row = 0;
  int32_t token_id = 0;
};

struct DescriptorHeader {
  int32_t rows = 0;
  int32_t partials = 0;
  DescriptorArray<DescriptorRow> row;
  DescriptorArray<int32_t> logit_row;  // rows of the step, ascending
  DescriptorArray<int32_t> top_count;  // [logit rows] how many of its most likely tokens are asked for
  DescriptorArray<DescriptorItem> item;
  DescriptorArray<DescriptorRun> run;
  DescriptorArray<DescriptorEntry> entry;
  DescriptorArray<DescriptorMerge> merge;
  DescriptorArray<int32_t> merge_partial;
  DescriptorArray<int32_t> zero_block;
  DescriptorArray<DescriptorCopy> copy;
  DescriptorArray<DescriptorSample> sample;  // by logit row
  DescriptorArray<DescriptorBias> bias;
  DescriptorArray<DescriptorCount> count;
  DescriptorArray<DescriptorScore> score;  // by logit row
};

ESPALIER_DEVICE const DescriptorHeader& HeaderOf(const std::byte* descriptor) {
  return *reinterpret_cast<const DescriptorHeader*>(descriptor);
}
template <typename T>
ESPALIER_DEVICE const T* ArrayOf(const std::byte* descriptor, const DescriptorArray<T>& array) {
  return reinterpret_cast<const T*>(descriptor + array.offset);
}

}  // namespace espalier::device
