#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/engine_options.h"
#include "engine/scheduling_policy.h"
#include "kernels/plan/attention_plan.h"

namespace espalier {

struct SchedulerOptions {
  EngineOptions engine;
  SchedulingPolicy policy;
  AttentionShape attention;
  PlanOptions plan;             // of the backend; the mode is taken from engine.attention_mode
  int32_t steps_in_flight = 1;  // 1 or 2
  int32_t max_path_tokens = 2048;
  std::vector<int32_t> eos_token_ids;
  uint64_t shuffle_seed = 0;        // tests: not 0 permutes the order of trees and siblings in each batch
  std::function<int64_t()> now_us;  // for EngineStats::plan_us only; may be empty
};

}  // namespace espalier
