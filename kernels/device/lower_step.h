#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device/history_store.h"
#include "kernels/device/step_descriptor.h"
#include "kernels/step_input.h"

namespace espalier::device {

// A step as the device reads it, and what the host keeps to understand the answer. Plain host code.
class LoweredStep {
 public:
  // Sets the histories of the step and notes its samples. Breaks of StepInput's contract abort.
  LoweredStep(const StepInput& step, HistoryStore* histories);

  // Bytes of the descriptor, header included.
  int64_t bytes() const { return bytes_; }
  // Writes the descriptor to memory of at least bytes() bytes.
  void Write(std::byte* to) const;

  const DescriptorHeader& header() const { return header_; }
  // Indices into StepInput::samples and scores, in the order of the descriptor.
  const std::vector<int32_t>& sample_order() const { return sample_order_; }
  const std::vector<int32_t>& score_order() const { return score_order_; }
  // The penalty counts that the i-th sample of the descriptor adds its token to; null where it has none.
  const std::vector<std::shared_ptr<HistoryCounts>>& sample_counts() const { return sample_counts_; }
  // Samples or scores of logit rows [first, first + rows): a range of the descriptor's order.
  struct Range {
    int32_t first = 0;
    int32_t count = 0;
  };
  Range SamplesOf(int32_t first_logit_row, int32_t rows) const;
  Range ScoresOf(int32_t first_logit_row, int32_t rows) const;

  // Limits that the operations check against what they are given.
  int32_t max_block() const { return max_block_; }
  int32_t max_position() const { return max_position_; }
  int32_t max_token_id() const { return max_token_id_; }  // that sampling or scoring names
  int32_t max_sequence_slot() const { return max_sequence_slot_; }
  int32_t max_item_rows() const { return max_item_rows_; }
  int32_t top_stride() const { return top_stride_; }

 private:
  void LowerRows(const StepInput& step);
  void LowerPlan(const AttentionPlan& plan);
  void LowerItem(const AttentionPlan& plan, const PlanItem& item);
  void LowerEntries(const AttentionPlan& plan, const PlanItem& item, const PlanSegment& segment);
  void LowerBlocks(const StepInput& step);
  void LowerSamples(const StepInput& step, HistoryStore* histories);
  void LowerScores(const StepInput& step);
  void AddBiases(const SamplingParams& params, DescriptorSample* sample);
  void AddCounts(const HistoryCounts& counts, DescriptorSample* sample);
  void NoteBlock(int32_t block);
  template <typename T>
  void Place(const std::vector<T>& values, DescriptorArray<T>* array);

  DescriptorHeader header_;
  int64_t bytes_ = 0;
  std::vector<DescriptorRow> rows_;
  std::vector<int32_t> logit_rows_;
  std::vector<int32_t> top_counts_;
  std::vector<DescriptorItem> items_;
  std::vector<DescriptorRun> runs_;
  std::vector<DescriptorEntry> entries_;
  std::vector<DescriptorMerge> merges_;
  std::vector<int32_t> merge_partials_;
  std::vector<int32_t> zero_blocks_;
  std::vector<DescriptorCopy> copies_;
  std::vector<DescriptorSample> samples_;
  std::vector<DescriptorBias> biases_;
  std::vector<DescriptorCount> counts_;
  std::vector<DescriptorScore> scores_;
  std::vector<int32_t> sample_order_;
  std::vector<int32_t> score_order_;
  std::vector<std::shared_ptr<HistoryCounts>> sample_counts_;
  int32_t max_block_ = -1;
  int32_t max_position_ = -1;
  int32_t max_token_id_ = -1;
  int32_t max_sequence_slot_ = -1;
  int32_t max_item_rows_ = 0;
  int32_t top_stride_ = 0;
};

}  // namespace espalier::device
