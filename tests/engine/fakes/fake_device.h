#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/step_input.h"
#include "tests/engine/fakes/fake_model.h"

namespace espalier::test {

// Executes steps on a KV pool that stores, instead of keys and values, which token at which position was
// written to each KV slot. What a row sees is gathered twice, from the batch and from the plan's items; both
// must be the row's whole path, positions 0 to its own, each once. The logits of a row are the FakeModel's
// for that sequence. Keeps the first problem it meets. Not thread-safe.
class FakeDevice {
 public:
  FakeDevice(FakeModelOptions model, int32_t total_blocks, int32_t block_tokens, int32_t max_rows);

  const FakeModel& model() const { return model_; }
  StepResult Execute(const StepInput& step);

  // Marks blocks that must not be read or written until they have been zeroed.
  void Poison(std::span<const int32_t> blocks);

  // What was wrong first; empty: nothing.
  const std::string& problem() const { return problem_; }
  void Report(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
  }

  int64_t steps() const { return steps_; }
  int64_t rows() const { return rows_; }
  int64_t copies() const { return copies_; }

 private:
  enum class KvSlotState : uint8_t { kPoisoned, kZeroed, kWritten };
  struct KvSlot {
    KvSlotState state = KvSlotState::kPoisoned;
    int32_t token_id = -1;
    int32_t position = -1;
  };

  bool CheckShape(const StepInput& step);
  void MoveBlocks(const StepInput& step);
  void WriteRows(const StepInput& step);
  void Write(int64_t slot, KvSlot value);
  // [rows] the state of the fake model at each row, from the batch; and, to compare, from the plan.
  std::vector<uint64_t> StatesByBatch(const StepInput& step);
  std::vector<uint64_t> StatesByPlan(const StepInput& step);
  void ExtendBy(int64_t slot, int32_t row, int32_t* next_position, uint64_t* state);
  void Sample(const StepInput& step, const std::vector<uint64_t>& states, StepResult* result);

  FakeModel model_;
  int32_t total_blocks_;
  int32_t block_tokens_;
  int32_t max_rows_;
  std::vector<KvSlot> kv_;                           // [total_blocks * block_tokens]
  std::unordered_map<int32_t, int32_t> last_token_;  // of sequence slots
  std::unordered_map<int32_t, FakeHistory> histories_;
  std::string problem_;
  int64_t steps_ = 0;
  int64_t rows_ = 0;
  int64_t copies_ = 0;
};

}  // namespace espalier::test
