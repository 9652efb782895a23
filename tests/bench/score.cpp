#include "tests/bench/score.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "model/backend_runner.h"
#include "model/decoder.h"
#include "tests/bench/decode_run.h"
#include "tests/bench/progress.h"
#include "tests/bench/step_cost.h"

namespace espalier::bench {

namespace {

struct Workload {
  TreeRequest all;
  std::vector<TreeRequest> each;
};

Workload MakeWorkload(const ScoreOptions& options) {
  std::mt19937_64 random(options.seed);
  const auto tokens = [&](int32_t count) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < count; ++i)
      ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(options.model.vocab)));
    return ids;
  };
  Workload workload;
  workload.all.nodes.push_back({"prompt", -1, GivenSpec{tokens(options.prompt_tokens)}});
  for (int32_t i = 0; i < options.candidates; ++i) {
    TreeRequest& one = workload.each.emplace_back();
    one.nodes.push_back(workload.all.nodes.front());
    one.nodes.push_back({"c" + std::to_string(i), 0, GivenSpec{tokens(options.candidate_tokens), true}});
    workload.all.nodes.push_back(one.nodes.back());
  }
  return workload;
}

// Times of one mode, a repeat each.
struct Times {
  std::vector<double> score_us;
  std::vector<double> sequential_us;
  std::vector<double> uncached_us;
};

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Result<double> TimeOf(RequestLoop* loop, const TreeRequest& request, std::vector<StepSample>* steps) {
  auto samples = loop->Run(request);
  if (!samples) return samples.error();
  double us = 0.0;
  for (const StepSample& sample : *samples) us += sample.step_us;
  if (steps != nullptr) *steps = std::move(*samples);
  return us;
}

// One repeat. `fresh`: a cache namespace that nothing has used.
Status RunRepeat(const Workload& workload, const std::string& fresh, RequestLoop* loop, Times* times,
                 std::vector<StepSample>* steps, TreeUsage* usage) {
  TreeRequest all = workload.all;
  all.cache_namespace = fresh + "all";
  const auto score = TimeOf(loop, all, steps);
  if (!score) return score.error();
  times->score_us.push_back(*score);
  *usage = loop->last_usage();
  double sequential = 0.0;
  for (TreeRequest one : workload.each) {
    one.cache_namespace = fresh + "each";
    const auto us = TimeOf(loop, one, nullptr);
    if (!us) return us.error();
    sequential += *us;
  }
  times->sequential_us.push_back(sequential);
  double uncached = 0.0;
  const size_t calls = std::min(workload.each.size(), static_cast<size_t>(kUncachedCalls));
  for (size_t i = 0; i < calls; ++i) {
    TreeRequest one = workload.each[i];
    one.cache_bypass = true;
    const auto us = TimeOf(loop, one, nullptr);
    if (!us) return us.error();
    uncached += *us;
  }
  times->uncached_us.push_back(uncached * static_cast<double>(workload.each.size()) /
                               static_cast<double>(calls));
  return {};
}

Json Row(const ScoreOptions& options, const ModelInfo& info, AttentionMode mode, const Times& times,
         const std::vector<StepSample>& steps, const TreeUsage& usage, const StepCost& cost) {
  CommonFields common;
  common.workload = std::to_string(options.candidates) + " x " + std::to_string(options.candidate_tokens) +
                    " on " + std::to_string(options.prompt_tokens);
  common.backend = info.backend.name;
  common.mode = mode;
  common.shape = info.attention;
  for (const StepSample& step : steps) {
    common.kv_read_bytes += static_cast<double>(step.accounting.kv_read_bytes);
    common.kv_read_bytes_sequence += static_cast<double>(step.accounting.kv_read_bytes_sequence);
    common.partial_bytes += static_cast<double>(step.accounting.partial_bytes);
    common.mask_bytes += static_cast<double>(step.accounting.mask_bytes);
    common.flop += cost.Flop(step);
    common.roofline_us += cost.RooflineUs(step);
    common.plan_us += step.plan_us;
  }
  common.measured_us = Median(times.score_us);
  Json row = MakeRow(common);
  row["candidates"] = options.candidates;
  row["computed_tokens"] = usage.computed_tokens;
  row["distinct_tokens"] = usage.distinct_tokens;
  row["score_us"] = RoundUs(common.measured_us);
  row["sequential_us"] = RoundUs(Median(times.sequential_us));
  row["uncached_us"] = RoundUs(Median(times.uncached_us));
  row["items_per_s"] = options.candidates / common.measured_us * 1e6;
  row["speedup"] = Median(times.sequential_us) / common.measured_us;
  row["speedup_uncached"] = Median(times.uncached_us) / common.measured_us;
  return row;
}

std::vector<Column> Columns() {
  return {{"workload", "workload"},
          {"mode", "mode"},
          {"computed", "computed_tokens"},
          {"distinct", "distinct_tokens"},
          {"items/s", "items_per_s", 1.0, 1},
          {"ms", "score_us", 1e3, 1},
          {"x sequential", "speedup", 1.0, 2},
          {"x uncached", "speedup_uncached", 1.0, 2},
          {"plan ms", "plan_us", 1e3, 2},
          {"KV MB", "kv_read_bytes", 1e6, 1},
          {"of sequence", "kv_read_bytes_sequence", 1e6, 1},
          {"of roofline %", "roofline_ratio", 0.01, 1}};
}

}  // namespace

// All candidates side by side, each with a copy of the prompt's last block; prompts of earlier repeats are
// evicted.
int32_t ScoreOptions::Blocks() const {
  const int32_t block = model.block_tokens;
  return (prompt_tokens + block - 1) / block + 1 + candidates * ((candidate_tokens + block - 1) / block + 1);
}

Result<Report> RunScore(const ScoreOptions& options) {
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  if (report.load_average > kQuietLoad)
    progress.Say("warning: the machine has not been idle; where other programs run, figures are too low");
  progress.Say("making the model");
  const ModelConfig config = options.model.Config(options.max_positions());
  const auto runner =
      RandomModel(config, options.seed, options.model.Runner(options.max_rows, options.Blocks()));
  if (!runner) return runner.error();
  const ModelInfo& info = (*runner)->info();
  report.backend = info.backend;
  progress.Say("measuring the machine");
  const auto peak = PeakOf(options.model, info.backend.threads);
  if (!peak) return peak.error();
  report.peak = *peak;
  const StepCost cost(options.model, info, *peak);

  const Workload workload = MakeWorkload(options);
  RequestLoop loop(**runner, BenchScheduling(info, options.candidates, options.max_rows, options.max_rows,
                                             options.modes.front()));
  std::vector<Times> times(options.modes.size());
  std::vector<std::vector<StepSample>> steps(options.modes.size());
  TreeUsage usage;
  for (int32_t repeat = 0; repeat < options.repeats; ++repeat) {
    for (size_t m = 0; m < options.modes.size(); ++m) {
      loop.SetAttentionMode(options.modes[m]);
      const std::string fresh = std::to_string(repeat) + "," + std::to_string(m) + ",";
      const Status status = RunRepeat(workload, fresh, &loop, &times[m], &steps[m], &usage);
      if (!status.ok()) return status.error();
      progress.Say("repeat " + std::to_string(repeat + 1) + ", " + std::string(Name(options.modes[m])));
    }
  }
  for (size_t m = 0; m < options.modes.size(); ++m)
    report.rows.push_back(Row(options, info, options.modes[m], times[m], steps[m], usage, cost));
  char title[200];
  std::snprintf(title, sizeof title, "model    random, %.3f M parameters, %s, %d layers; %d repeats",
                static_cast<double>(info.parameters) * 1e-6, Name(info.backend.dtype), info.attention.layers,
                options.repeats);
  report.title = title;
  report.columns = Columns();
  return report;
}

}  // namespace espalier::bench
