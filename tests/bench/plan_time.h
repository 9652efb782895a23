#pragma once

#include "kernels/plan/attention_plan.h"
#include "tests/bench/clock.h"

namespace espalier::bench {

// Makes *plan anew; returns how long that took, in microseconds. What *plan held is released before.
inline double TimePlan(const TreeBatch& batch, const AttentionShape& shape, const PlanOptions& options,
                       AttentionPlan* plan) {
  *plan = AttentionPlan();
  const Clock::time_point begin = Clock::now();
  *plan = PlanAttention(batch, shape, options);
  return MicrosecondsBetween(begin, Clock::now());
}

}  // namespace espalier::bench
