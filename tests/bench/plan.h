#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/result.h"
#include "kernels/plan/attention_plan.h"
#include "tests/bench/report.h"
#include "tests/bench/tree_shape.h"

namespace espalier::bench {

struct PlanBenchOptions {
  std::vector<TreeShape> workloads;
  AttentionShape shape;    // without layers
  BackendOptions backend;  // whose processors and tiles are planned for
  int32_t block_tokens = 16;
  int32_t processors = 0;  // 0: what the backend says
  std::vector<AttentionMode> modes;
  int32_t repeats = 301;
};

// `espalier-bench plan`: the planner alone, as the engine calls it once a step: on one thread, the plan
// before freed. All modes in turn in each repeat. A row for each workload and mode.
//
// Fields of a row: plan_us.median and the like over the repeats, the first left out; items, entries,
// partials: of the plan; plan_costs: what it uses; kv_read_bytes and kv_read_bytes_sequence of one
// layer.
//
// Errors name the flag at fault where there is one.
Result<Report> RunPlanBench(const PlanBenchOptions& options);

}  // namespace espalier::bench
