#include "tests/bench/plan.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "tests/bench/plan_time.h"
#include "tests/bench/statistics.h"

namespace espalier::bench {

namespace {

constexpr int64_t kPoolBytes = int64_t{256} << 20;

// What the backend's planner is given for this shape.
Result<BackendInfo> PlannedFor(const PlanBenchOptions& options) {
  auto backend = CreateBackend(options.backend);
  if (!backend) return backend.error();
  AttentionShape shape = options.shape;
  shape.layers = 1;
  // As large as those of models are, for which a backend measures its costs; nothing is written to it.
  const int64_t block_bytes = shape.KvBytesPerTokenLayer() * options.block_tokens;
  const auto blocks = static_cast<int32_t>(options.backend.name == "cpu" ? kPoolBytes / block_bytes + 1 : 1);
  if (auto kv = (*backend)->AddKv(shape, blocks, options.block_tokens); !kv) return kv.error();
  BackendInfo info = (*backend)->info();
  if (options.processors > 0) info.plan.processors = options.processors;
  return info;
}

Json Row(const TreeShape& workload, AttentionMode mode, const TreeBatch& batch, const AttentionPlan& plan,
         const PlanCosts& costs, const std::vector<double>& us) {
  Json row;
  row["workload"] = workload.name;
  row["mode"] = Name(mode);
  row["query_rows"] = batch.rows();
  row["nodes"] = batch.nodes.size();
  row["plan_costs"] = CostsJson(costs);
  row["items"] = plan.items.size();
  row["entries"] = plan.entries.size();
  row["partials"] = plan.partials;
  row["kv_read_bytes"] = plan.accounting.kv_read_bytes;
  row["kv_read_bytes_sequence"] = plan.accounting.kv_read_bytes_sequence;
  row["plan_us"] = {{"median", RoundUs(Median(us))},
                    {"min", RoundUs(*std::min_element(us.begin(), us.end()))},
                    {"p99", RoundUs(Quantile(us, 0.99))},
                    {"runs", us.size()}};
  return row;
}

}  // namespace

Result<Report> RunPlanBench(const PlanBenchOptions& options) {
  Report report;
  report.load_average = LoadAverage();
  const auto info = PlannedFor(options);
  if (!info) return info.error();
  report.backend = *info;
  AttentionShape shape = options.shape;
  shape.layers = 1;
  for (const TreeShape& workload : options.workloads) {
    const TreeBatch batch = MakeBatch(workload, options.block_tokens);
    std::vector<std::vector<double>> us(options.modes.size());
    AttentionPlan plan;
    PlanOptions plan_options = info->plan;
    for (int32_t repeat = 0; repeat <= options.repeats; ++repeat) {
      for (size_t m = 0; m < options.modes.size(); ++m) {
        plan_options.mode = options.modes[m];
        const double time_us = TimePlan(batch, shape, plan_options, &plan);
        if (repeat > 0) us[m].push_back(time_us);
      }
    }
    for (size_t m = 0; m < options.modes.size(); ++m) {
      plan_options.mode = options.modes[m];
      report.rows.push_back(Row(workload, options.modes[m], batch, PlanAttention(batch, shape, plan_options),
                                plan_options.costs, us[m]));
    }
  }
  char title[320];
  std::snprintf(
      title, sizeof title,
      "plans    %d/%d heads of %d, tiles of %d rows, %d processors, blocks of %d tokens, %d repeats\n"
      "costs    token %lld, partial %lld, item %lld; one head's work on one token is 1",
      shape.query_heads, shape.kv_heads, shape.head_dim, info->plan.max_tile_rows, info->plan.processors,
      options.block_tokens, options.repeats, static_cast<long long>(info->plan.costs.token),
      static_cast<long long>(info->plan.costs.partial), static_cast<long long>(info->plan.costs.item));
  report.title = title;
  report.columns = {{"workload", "workload"},
                    {"mode", "mode"},
                    {"rows", "query_rows"},
                    {"items", "items"},
                    {"entries", "entries"},
                    {"partials", "partials"},
                    {"plan us", "plan_us/median", 1.0, 1},
                    {"min", "plan_us/min", 1.0, 1},
                    {"p99", "plan_us/p99", 1.0, 1}};
  return report;
}

}  // namespace espalier::bench
