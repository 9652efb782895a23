#include "kernels/device/lower_step.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/base/philox.h"
#include "kernels/base/result.h"

namespace espalier::device {

namespace {

constexpr int64_t kArrayAlignment = 16;

template <typename T>
int32_t CountOf(const std::vector<T>& values) {
  return static_cast<int32_t>(values.size());
}

// Indices of requests by logit row, those of a row in their own order.
template <typename Request>
std::vector<int32_t> OrderOf(const std::vector<Request>& requests) {
  std::vector<int32_t> order(requests.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return requests[static_cast<size_t>(a)].logit_index < requests[static_cast<size_t>(b)].logit_index;
  });
  return order;
}

template <typename T>
LoweredStep::Range RangeOf(const std::vector<T>& sorted, int32_t first_logit_row, int32_t rows) {
  const auto before = [](const T& request, int32_t row) { return request.logit_row < row; };
  const auto begin = std::lower_bound(sorted.begin(), sorted.end(), first_logit_row, before);
  const auto end = std::lower_bound(begin, sorted.end(), first_logit_row + rows, before);
  return {static_cast<int32_t>(begin - sorted.begin()), static_cast<int32_t>(end - begin)};
}

}  // namespace

LoweredStep::LoweredStep(const StepInput& step, HistoryStore* histories) {
  ESPALIER_CHECK(step.tokens.size() == static_cast<size_t>(step.batch.rows()));
  header_.rows = step.batch.rows();
  header_.partials = step.plan.partials;
  LowerRows(step);
  LowerBlocks(step);
  LowerPlan(step.plan);
  for (const SequenceHistory& history : step.histories) histories->Set(history);
  LowerSamples(step, histories);
  LowerScores(step);

  bytes_ = RoundUpTo(static_cast<int64_t>(sizeof(DescriptorHeader)), kArrayAlignment);
  Place(rows_, &header_.row);
  Place(logit_rows_, &header_.logit_row);
  Place(top_counts_, &header_.top_count);
  Place(items_, &header_.item);
  Place(runs_, &header_.run);
  Place(entries_, &header_.entry);
  Place(merges_, &header_.merge);
  Place(merge_partials_, &header_.merge_partial);
  Place(zero_blocks_, &header_.zero_block);
  Place(copies_, &header_.copy);
  Place(samples_, &header_.sample);
  Place(biases_, &header_.bias);
  Place(counts_, &header_.count);
  Place(scores_, &header_.score);
}

template <typename T>
void LoweredStep::Place(const std::vector<T>& values, DescriptorArray<T>* array) {
  array->offset = bytes_;
  array->count = CountOf(values);
  bytes_ = RoundUpTo(bytes_ + static_cast<int64_t>(values.size() * sizeof(T)), kArrayAlignment);
}

void LoweredStep::Write(std::byte* to) const {
  std::memcpy(to, &header_, sizeof header_);
  const auto write = [to](const auto& values, const auto& array) {
    if (!values.empty()) std::memcpy(to + array.offset, values.data(), values.size() * sizeof values[0]);
  };
  write(rows_, header_.row);
  write(logit_rows_, header_.logit_row);
  write(top_counts_, header_.top_count);
  write(items_, header_.item);
  write(runs_, header_.run);
  write(entries_, header_.entry);
  write(merges_, header_.merge);
  write(merge_partials_, header_.merge_partial);
  write(zero_blocks_, header_.zero_block);
  write(copies_, header_.copy);
  write(samples_, header_.sample);
  write(biases_, header_.bias);
  write(counts_, header_.count);
  write(scores_, header_.score);
}

LoweredStep::Range LoweredStep::SamplesOf(int32_t first_logit_row, int32_t rows) const {
  return RangeOf(samples_, first_logit_row, rows);
}
LoweredStep::Range LoweredStep::ScoresOf(int32_t first_logit_row, int32_t rows) const {
  return RangeOf(scores_, first_logit_row, rows);
}

void LoweredStep::NoteBlock(int32_t block) {
  ESPALIER_CHECK(block >= 0);
  max_block_ = std::max(max_block_, block);
}

void LoweredStep::LowerRows(const StepInput& step) {
  const TreeBatch& batch = step.batch;
  rows_.reserve(step.tokens.size());
  for (int32_t r = 0; r < batch.rows(); ++r) {
    const auto index = static_cast<size_t>(r);
    const int64_t kv = batch.KvSlotOfRow(r);
    DescriptorRow row;
    row.token_id = step.tokens[index].token_id;
    row.sequence_slot = step.tokens[index].sequence_slot;
    row.position = batch.row_position[index];
    row.subtree_end = batch.row_subtree_end[index];
    row.kv_block = static_cast<int32_t>(kv / batch.block_tokens);
    row.kv_slot = static_cast<int32_t>(kv % batch.block_tokens);
    ESPALIER_CHECK(row.position >= 0 && (row.token_id >= 0 || row.sequence_slot >= 0));
    NoteBlock(row.kv_block);
    max_position_ = std::max(max_position_, row.position);
    max_sequence_slot_ = std::max(max_sequence_slot_, row.sequence_slot);
    rows_.push_back(row);
  }
  logit_rows_ = step.logit_rows;
  for (const int32_t row : logit_rows_) ESPALIER_CHECK(row >= 0 && row < batch.rows());
  top_counts_.assign(logit_rows_.size(), 0);
}

void LoweredStep::LowerPlan(const AttentionPlan& plan) {
  items_.reserve(plan.items.size());
  runs_.reserve(plan.segments.size());
  entries_.reserve(plan.entries.size());
  for (const PlanItem& item : plan.items) LowerItem(plan, item);
  for (size_t i = 0; i < plan.merge_rows.size(); ++i) {
    merges_.push_back(
        {plan.merge_rows[i], plan.merge_begin[i], plan.merge_begin[i + 1] - plan.merge_begin[i]});
  }
  merge_partials_ = plan.merge_partials;
}

// Segments become runs.
void LoweredStep::LowerItem(const AttentionPlan& plan, const PlanItem& item) {
  ESPALIER_CHECK(item.rows > 0 && item.rows <= UINT16_MAX);
  max_item_rows_ = std::max(max_item_rows_, item.rows);
  items_.push_back({CountOf(runs_), item.segments, item.first_row, item.rows, item.first_partial});
  int32_t partial = item.first_partial;
  for (const PlanSegment& segment : plan.SegmentsOf(item)) {
    DescriptorRun run;
    run.first_entry = CountOf(entries_);
    LowerEntries(plan, item, segment);
    run.entries = CountOf(entries_) - run.first_entry;
    run.segment = segment.index;
    run.first_partial = item.first_partial < 0 ? -1 : std::exchange(partial, partial + item.rows);
    if (run.entries > 0) {
      ESPALIER_CHECK(segment.row_begin >= item.first_row && segment.row_end <= item.first_row + item.rows);
      ESPALIER_CHECK(segment.column_end <= kSegmentTokens);
      run.columns = segment.column_end;
      run.row_lo = segment.row_begin - item.first_row;
      run.row_hi = segment.row_end - item.first_row;
    }
    runs_.push_back(run);
  }
}

// Entries that no row sees are left out.
void LoweredStep::LowerEntries(const AttentionPlan& plan, const PlanItem& item, const PlanSegment& segment) {
  for (int32_t e = segment.first_entry; e < segment.first_entry + segment.entries; ++e) {
    const PlanEntry& entry = plan.entries[static_cast<size_t>(e)];
    if (entry.row_begin >= entry.row_end || entry.tokens <= 0) continue;
    ESPALIER_CHECK(entry.row_begin >= segment.row_begin && entry.row_end <= segment.row_end);
    DescriptorEntry to;
    to.block = entry.block;
    to.position = entry.position;
    to.first_own_row = entry.first_own_row;
    to.first_kv_slot = static_cast<uint16_t>(entry.first_kv_slot);
    to.tokens = static_cast<uint16_t>(entry.tokens);
    to.row_lo = static_cast<uint16_t>(entry.row_begin - item.first_row);
    to.row_hi = static_cast<uint16_t>(entry.row_end - item.first_row);
    NoteBlock(entry.block);
    entries_.push_back(to);
  }
}

void LoweredStep::LowerBlocks(const StepInput& step) {
  zero_blocks_ = step.zero_blocks;
  for (const int32_t block : zero_blocks_) NoteBlock(block);
  for (const BlockCopy& copy : step.copies) {
    ESPALIER_CHECK(copy.tokens >= 0 && copy.tokens <= step.batch.block_tokens);
    NoteBlock(copy.source);
    NoteBlock(copy.destination);
    copies_.push_back({copy.source, copy.destination, copy.tokens});
  }
}

// Biases of one token lie side by side, so that one thread applies them.
void LoweredStep::AddBiases(const SamplingParams& params, DescriptorSample* sample) {
  sample->first_bias = CountOf(biases_);
  std::vector<std::pair<int32_t, float>> sorted = params.logit_bias;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [id, bias] : sorted) {
    ESPALIER_CHECK(id >= 0);
    max_token_id_ = std::max(max_token_id_, id);
    biases_.push_back({id, bias});
  }
  sample->biases = CountOf(biases_) - sample->first_bias;
}

void LoweredStep::AddCounts(const HistoryCounts& counts, DescriptorSample* sample) {
  sample->first_count = CountOf(counts_);
  for (const auto& [id, count] : counts.tokens) {
    ESPALIER_CHECK(id >= 0);
    max_token_id_ = std::max(max_token_id_, id);
    counts_.push_back({id, count});
  }
  sample->counts = CountOf(counts_) - sample->first_count;
  // Issue() has counted this sample already.
  ESPALIER_CHECK_MSG(counts.pending <= 2,
                     "at most one sample of a sequence slot is unknown when the next is issued");
  sample->counts_last = counts.pending == 2 ? 1 : 0;
  sample->uses_history = 1;
}

void LoweredStep::LowerSamples(const StepInput& step, HistoryStore* histories) {
  sample_order_ = OrderOf(step.samples);
  samples_.reserve(step.samples.size());
  for (const int32_t index : sample_order_) {
    const SampleRequest& request = step.samples[static_cast<size_t>(index)];
    ESPALIER_CHECK(request.logit_index >= 0 && request.logit_index < CountOf(logit_rows_) &&
                   request.sequence_slot >= 0);
    const SamplingParams& params = step.params.at(static_cast<size_t>(request.params));
    DescriptorSample sample;
    sample.uniform = UniformOf(request.stream, static_cast<uint32_t>(request.position));
    sample.top_p = static_cast<double>(params.top_p);
    sample.inverse_temperature = params.InverseTemperature();
    sample.min_p = params.min_p;
    sample.repetition_penalty = params.repetition_penalty;
    sample.presence_penalty = params.presence_penalty;
    sample.frequency_penalty = params.frequency_penalty;
    sample.top_k = params.top_k;
    sample.logit_row = request.logit_index;
    sample.sequence_slot = request.sequence_slot;
    AddBiases(params, &sample);
    sample_counts_.push_back(histories->Issue(request.sequence_slot, params.UsesHistory()));
    if (sample_counts_.back() != nullptr) AddCounts(*sample_counts_.back(), &sample);
    int32_t& top = top_counts_[static_cast<size_t>(request.logit_index)];
    top = std::max(top, request.top_logprobs);
    max_sequence_slot_ = std::max(max_sequence_slot_, request.sequence_slot);
    samples_.push_back(sample);
  }
  for (const int32_t top : top_counts_) top_stride_ = std::max(top_stride_, top);
}

void LoweredStep::LowerScores(const StepInput& step) {
  score_order_ = OrderOf(step.scores);
  for (const int32_t index : score_order_) {
    const ScoreRequest& request = step.scores[static_cast<size_t>(index)];
    ESPALIER_CHECK(request.logit_index >= 0 && request.logit_index < CountOf(logit_rows_) &&
                   request.token_id >= 0);
    max_token_id_ = std::max(max_token_id_, request.token_id);
    int32_t& top = top_counts_[static_cast<size_t>(request.logit_index)];
    top = std::max(top, request.top_logprobs);
    top_stride_ = std::max(top_stride_, top);
    scores_.push_back({request.logit_index, request.token_id});
  }
}

}  // namespace espalier::device
