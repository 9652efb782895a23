#pragma once

#include <chrono>

#include "kernels/plan/attention_plan.h"

namespace espalier::bench {

// Makes *plan anew; returns how long that took, in microseconds. What *plan held is released before.
inline double TimePlan(const TreeBatch& batch, const AttentionShape& shape, const PlanOptions& options,
                       AttentionPlan* plan) {
  *plan = AttentionPlan();
  const auto begin = std::chrono::steady_clock::now();
  *plan = PlanAttention(batch, shape, options);
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace espalier::bench
