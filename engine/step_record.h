#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/tree_event.h"
#include "kernels/plan/attention_plan.h"
#include "kernels/step_input.h"

namespace espalier {

// What the commit of a step needs to know: whose its samples and scores are. By numbers, because requests may
// end while the step is in flight.
struct StepRecord {
  struct Target {
    uint64_t request = 0;
    int32_t sequence = 0;  // of scores: the given branch
  };
  struct Share {
    uint64_t request = 0;
    int64_t weight = 0;  // tokens that the request's rows see
  };
  struct Prefill {
    uint64_t request = 0;
    TreeProgress progress;
  };
  uint64_t step_id = 0;
  std::vector<Target> samples;
  std::vector<Target> scores;
  std::vector<Target> reads;  // runs that are complete with this step, and unscored given terminal branches
  std::vector<Prefill> prefills;  // paths that are incomplete after this step
  std::vector<Share> shares;
  int64_t total_weight = 0;
  PlanAccounting accounting;
};

struct PlannedStep {
  std::shared_ptr<const StepInput> input;  // null: there were no rows
  StepRecord record;
};

}  // namespace espalier
