#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/memory_pressure.h"
#include "engine/scheduler_options.h"
#include "engine/sequence_opener.h"
#include "engine/sequence_slots.h"
#include "engine/step_record.h"
#include "engine/usage_meter.h"

namespace espalier {

// Puts a step together: rows of sequences, and what is sampled and scored from them. Begin, then Issue for
// each sequence that gets rows, then Finish. Not thread-safe.
class StepBuilder {
 public:
  // All outlive this.
  StepBuilder(const SchedulerOptions& options, TailNodes* tails, MemoryPressure* pressure,
              SequenceOpener* opener, SequenceSlots* slots, UsageMeter* usage);

  void Begin(uint64_t step_id);

  struct IssuedRows {
    int32_t rows = 0;
    bool complete = false;  // nothing is missing on the sequence's path any more
  };
  // Issues up to `budget` rows of the sequence's path, from the first that is missing. A sequence that is not
  // in memory is opened first.
  IssuedRows Issue(const Candidate& candidate, int32_t budget);
  // What the step has got of a path that is still incomplete after it is reported with its commit.
  void NotePrefill(const Candidate& candidate);

  int32_t rows() const { return rows_; }
  // Numbers the rows and plans the attention.
  PlannedStep Finish();

 private:
  // Rows whose logits are used, or whose token only the device knows; as (node, position) until rows have
  // numbers.
  struct RowUse {
    int32_t node = 0;
    int32_t position = 0;
    int32_t sequence_slot = -1;
  };

  int32_t IssueAbove(const Candidate& candidate, int32_t budget);
  bool MakeLastRowRunAgain(const Sequence& sequence);
  int32_t IssueNode(const Candidate& candidate, int32_t node, int32_t rows);
  void AttachUses(const Candidate& candidate, int32_t first_position, int32_t end_position);
  void AttachRunUses(ScheduledRequest* request, Sequence* run, int32_t end_position);
  void SampleFirstTokens(ScheduledRequest* request, const std::vector<int32_t>& awaiting, int32_t tail,
                         int32_t position);
  void SampleToken(ScheduledRequest* request, Sequence* sampling, int32_t tail, int32_t position);
  int32_t ParamsIndex(const SamplingParams& params);
  void NumberRows();

  const SchedulerOptions& options_;
  TailNodes& tails_;
  MemoryPressure& pressure_;
  SequenceOpener& opener_;
  SequenceSlots& sequence_slots_;
  UsageMeter& usage_;
  BatchBuilder batch_builder_;

  // The step being put together.
  std::shared_ptr<StepInput> input_;
  StepMemory memory_;
  StepRecord record_;
  int32_t rows_ = 0;
  std::vector<RowUse> sample_uses_;  // as input_->samples
  std::vector<RowUse> score_uses_;   // as input_->scores
  std::vector<RowUse> sequence_slot_uses_;
  std::unordered_map<const SamplingParams*, int32_t> params_index_;  // into input_->params
};

}  // namespace espalier
