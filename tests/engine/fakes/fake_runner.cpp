#include "tests/engine/fakes/fake_runner.h"

#include <bit>
#include <chrono>
#include <thread>
#include <type_traits>
#include <utility>

namespace espalier::test {
namespace {

// A hash of all that a step says, to find out whether it was changed.
class StepHash {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void Add(T value) {
    if constexpr (std::is_floating_point_v<T>) {
      Add(std::bit_cast<uint32_t>(static_cast<float>(value)));
    } else {
      hash_ = (hash_ ^ static_cast<uint64_t>(value)) * 0x100000001B3U;
      hash_ ^= hash_ >> 29;
    }
  }
  template <typename T>
  void Add(const std::vector<T>& values) {
    Add(values.size());
    for (const T& value : values) Add(value);
  }
  template <typename... Values>
  void All(const Values&... values) {
    (Add(values), ...);
  }
  void Add(const std::pair<int32_t, float>& v) { All(v.first, v.second); }
  void Add(const BlockCopy& v) { All(v.source, v.destination, v.tokens); }
  void Add(const SequenceHistory& v) {
    Add(v.sequence_slot);
    v.ForEachPiece([this](const PathHistory& piece) { All(piece.prompt_tokens, piece.generated_tokens); });
  }
  void Add(const BatchNode& v) {
    All(v.parent, v.begin_position, v.cached_tokens, v.first_block, v.first_row, v.rows, v.subtree_end_row);
  }
  void Add(const TreeBatch& v) {
    All(v.block_tokens, v.nodes, v.blocks, v.row_node, v.row_position, v.row_subtree_end);
  }
  void Add(const PlanItem& v) { All(v.first_row, v.rows, v.first_segment, v.segments, v.first_partial); }
  void Add(const PlanSegment& v) {
    All(v.index, v.first_entry, v.entries, v.row_begin, v.row_end, v.column_begin, v.column_end, v.tokens);
    Add(v.pairs);
  }
  void Add(const PlanEntry& v) {
    All(v.block, v.first_kv_slot, v.tokens, v.position, v.row_begin, v.row_end, v.first_own_row);
  }
  void Add(const AttentionPlan& v) {
    All(v.items, v.segments, v.entries, v.partials, v.merge_rows, v.merge_begin, v.merge_partials);
  }
  void Add(const RowToken& v) { All(v.token_id, v.sequence_slot); }
  void Add(const SamplingParams& v) {
    All(v.temperature, v.top_k, v.top_p, v.min_p, v.repetition_penalty, v.presence_penalty);
    All(v.frequency_penalty, v.logit_bias);
  }
  void Add(const SampleRequest& v) {
    All(v.logit_index, v.sequence_slot, v.params, v.position, v.stream, v.top_logprobs);
  }
  void Add(const ScoreRequest& v) { All(v.logit_index, v.token_id, v.top_logprobs); }
  void Add(const StepInput& v) {
    All(v.step_id, v.zero_blocks, v.copies, v.histories, v.batch, v.plan, v.tokens, v.logit_rows, v.params);
    All(v.samples, v.scores);
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325U;
};

uint64_t HashOf(const StepInput& step) {
  StepHash hash;
  hash.Add(step);
  return hash.value();
}

}  // namespace

FakeRunner::FakeRunner(const FakeRunnerOptions& options) : options_(options) {
  info_.name = "fake";
  info_.vocab_size = options.model.vocab_size;
  info_.max_positions = options.max_positions;
  info_.eos_token_ids = options.model.eos_token_ids;
  info_.attention = {
      .layers = 1, .query_heads = 2, .kv_heads = 1, .head_dim = 8, .kv_dtype = DType::kFloat32};
  info_.kv_blocks = options.total_blocks;
  info_.block_tokens = options.block_tokens;
  info_.backend.name = "fake";
  info_.backend.steps_in_flight = options.steps_in_flight;
  info_.backend.plan.processors = options.processors;
  info_.backend.plan.max_tile_rows = 16;
  device_ = std::make_shared<FakeDeviceState>(
      FakeDevice(options.model, options.total_blocks, options.block_tokens, options.max_rows));
}

void FakeRunner::Issue(std::shared_ptr<const StepInput> step) {
  if (in_flight() >= options_.steps_in_flight) {
    device_->With([](FakeDevice& device) { device.Report("too many steps in flight"); });
  }
  const uint64_t hash = HashOf(*step);
  queue_.push_back({std::move(step), hash});
}

Result<StepResult> FakeRunner::Wait() {
  ESPALIER_CHECK(!queue_.empty());
  if (options_.step_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(options_.step_us));
  const Issued issued = std::move(queue_.front());
  queue_.pop_front();
  if (options_.fail_after_steps >= 0 && waited_ >= options_.fail_after_steps) {
    return Error{ErrorCode::kInternal, "", "the fake device is lost"};
  }
  ++waited_;
  return device_->With([&](FakeDevice& device) {
    if (HashOf(*issued.step) != issued.hash) device.Report("a step was changed after its issue");
    return Result<StepResult>(device.Execute(*issued.step));
  });
}

}  // namespace espalier::test
