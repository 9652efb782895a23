#include "tests/bench/replay.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <utility>

#include "kernels/base/result.h"
#include "model/backend_runner.h"
#include "model/decoder.h"
#include "tests/bench/decode_run.h"
#include "tests/bench/progress.h"
#include "tests/bench/replay_request.h"
#include "tests/bench/step_cost.h"

namespace espalier::bench {

namespace {

// Windows of a workload, evenly spread over the steps of all its trees.
std::vector<ReplayWindow> MakeWindows(const ReplayOptions& options, const ReplayWorkload& workload) {
  int64_t total = 0;
  for (const RecordedTree& tree : workload.trees) total += tree.steps();
  std::vector<ReplayWindow> windows;
  for (int32_t i = 0; i < options.windows; ++i) {
    int64_t step = (2 * int64_t{i} + 1) * total / (2 * int64_t{options.windows});
    auto tree = workload.trees.begin();
    for (; step >= tree->steps(); ++tree) step -= tree->steps();
    const int32_t first =
        std::max(1, std::min(static_cast<int32_t>(step) + 1, tree->steps() - options.window_steps + 1));
    ReplayWindow window = MakeWindow(*tree, first, options.window_steps, options.model.vocab,
                                     options.seed + static_cast<uint64_t>(i));
    if (window.generated_tokens > 0) windows.push_back(std::move(window));
  }
  return windows;
}

// Sums over the decoding steps of all windows.
struct ModeSums {
  AttentionMode mode = AttentionMode::kFlatten;
  int64_t steps = 0;
  int64_t tokens = 0;
  double decode_us = 0.0;
  double forward_us = 0.0;
  double attention_us = 0.0;
  double bytes = 0.0;
  double outside_us = 0.0;
  double plan_us = 0.0;
  double roofline_us = 0.0;
  double flop = 0.0;
  PlanAccounting accounting = {};

  void Add(const std::vector<StepSample>& samples, const StepCost& cost) {
    for (const StepSample& sample : samples) {
      ++steps;
      tokens += sample.logit_rows;
      decode_us += sample.step_us;
      forward_us += sample.forward_us;
      attention_us += sample.attention_us;
      bytes += cost.Bytes(sample);
      outside_us += sample.outside_forward_us;
      plan_us += sample.plan_us;
      roofline_us += cost.RooflineUs(sample);
      flop += cost.Flop(sample);
      accounting.kv_read_bytes += sample.accounting.kv_read_bytes;
      accounting.kv_read_bytes_sequence += sample.accounting.kv_read_bytes_sequence;
      accounting.partial_bytes += sample.accounting.partial_bytes;
      accounting.mask_bytes += sample.accounting.mask_bytes;
    }
  }
};

// The steps of decoding of one window by one mode, of each the repeat that took the median time.
std::vector<StepSample> MedianSteps(std::vector<std::vector<StepSample>> repeats) {
  for (std::vector<StepSample>& samples : repeats) std::erase_if(samples, [](auto& s) { return s.prefill; });
  const auto as_many = [&](auto& samples) { return samples.size() == repeats.front().size(); };
  ESPALIER_CHECK(std::ranges::all_of(repeats, as_many));
  std::vector<StepSample> median;
  for (size_t step = 0; step < repeats.front().size(); ++step) {
    std::vector<StepSample> same;
    same.reserve(repeats.size());
    for (const std::vector<StepSample>& samples : repeats) same.push_back(samples[step]);
    const auto middle = same.begin() + static_cast<std::ptrdiff_t>(same.size() / 2);
    std::nth_element(same.begin(), middle, same.end(),
                     [](const StepSample& a, const StepSample& b) { return a.step_us < b.step_us; });
    median.push_back(*middle);
  }
  return median;
}

// What all windows need of the model and its KV pool.
struct Needs {
  int32_t path_tokens = 1;
  int32_t branches = 1;
  int32_t blocks = 1;

  void Cover(const ReplayWindow& window, int32_t block_tokens) {
    path_tokens = std::max(path_tokens, window.longest_path_tokens);
    branches = std::max(branches, window.branches);
    // Every node may leave its last block partly filled, and begin with a copy of the one above it.
    const auto nodes = static_cast<int64_t>(window.request.nodes.size());
    const int64_t tokens = window.given_tokens + window.generated_tokens + 2 * nodes * block_tokens;
    blocks = std::max(blocks, static_cast<int32_t>(tokens / block_tokens) + 1);
  }
};

// The last block of every branch's path may have to be run again before it decodes: in one step for all, so
// that they decode side by side.
int32_t ChunkTokens(const ReplayOptions& options, const Needs& needs) {
  return std::max(options.prefill_chunk_tokens, needs.branches * options.model.block_tokens);
}

Status CheckMemory(const ReplayOptions& options, const ModelConfig& config, const Needs& needs) {
  if (options.model.backend == "cuda") return {};  // the device says itself what does not fit
  const int64_t bytes = options.model.MemoryBytes(config.max_positions, needs.blocks);
  const auto available = AvailableMemoryBytes();
  if (available && bytes > *available)
    return InvalidArgument("layers", "weights and KV cache do not fit into the memory that is free");
  return {};
}

// `other` of the mode sequence over `mine`; null where it did not run.
Json SpeedupOver(const std::vector<ModeSums>& all, double ModeSums::*time, const ModeSums& mine) {
  for (const ModeSums& other : all) {
    if (other.mode == AttentionMode::kSequence) return other.*time / (mine.*time);
  }
  return nullptr;
}

Json Row(const ReplayWorkload& workload, const ModelInfo& info, const std::vector<ModeSums>& all,
         const ModeSums& sums, const StepCost& cost) {
  CommonFields common;
  common.workload = workload.name;
  common.backend = info.backend.name;
  common.mode = sums.mode;
  common.shape = info.attention;
  common.kv_read_bytes = static_cast<double>(sums.accounting.kv_read_bytes);
  common.kv_read_bytes_sequence = static_cast<double>(sums.accounting.kv_read_bytes_sequence);
  common.partial_bytes = static_cast<double>(sums.accounting.partial_bytes);
  common.mask_bytes = static_cast<double>(sums.accounting.mask_bytes);
  common.flop = sums.flop;
  common.roofline_us = sums.roofline_us;
  common.measured_us = sums.decode_us;
  common.plan_us = sums.plan_us;
  Json row = MakeRow(common);
  row["weights"] = Name(info.backend.weights, info.backend.dtype);
  row["weight_bytes"] = info.weight_bytes;
  row["tree"] = workload.name;
  row["trees"] = workload.trees.size();
  row["skipped_trees"] = workload.skipped_trees;
  row["steps"] = sums.steps;
  row["tokens"] = sums.tokens;
  row["decode_us"] = RoundUs(sums.decode_us);
  cost.AddReached(sums.forward_us, sums.attention_us, sums.bytes, common.kv_read_bytes, &row);
  row["outside_forward_us"] = RoundUs(sums.outside_us);
  row["tokens_per_s"] = static_cast<double>(sums.tokens) / sums.decode_us * 1e6;
  row["speedup_over_sequence"] = SpeedupOver(all, &ModeSums::decode_us, sums);
  row["attention_speedup_over_sequence"] = SpeedupOver(all, &ModeSums::attention_us, sums);
  return row;
}

// Of each mode, in the order of options.modes, the steps of decoding.
Result<std::vector<std::vector<StepSample>>> RunWindow(const ReplayWindow& window,
                                                       const ReplayOptions& options,
                                                       const SchedulerOptions& scheduling,
                                                       ModelRunner* runner) {
  RequestLoop loop(*runner, scheduling);
  if (const auto prefill = loop.Run(window.given); !prefill) return prefill.error();
  std::vector<std::vector<std::vector<StepSample>>> repeats(options.modes.size());
  for (int32_t repeat = 0; repeat < options.repeats; ++repeat) {
    for (size_t m = 0; m < options.modes.size(); ++m) {
      loop.SetAttentionMode(options.modes[m]);
      auto samples = loop.Run(window.request);
      if (!samples) return samples.error();
      repeats[m].push_back(std::move(*samples));
    }
  }
  std::vector<std::vector<StepSample>> steps;
  steps.reserve(repeats.size());
  for (auto& of_mode : repeats) steps.push_back(MedianSteps(std::move(of_mode)));
  return steps;
}

std::vector<Column> Columns() {
  return {{"tree", "tree"},
          {"mode", "mode"},
          {"steps", "steps"},
          {"tok/s", "tokens_per_s", 1.0, 1},
          {"decode ms", "decode_us", 1e3, 1},
          {"x sequence", "speedup_over_sequence", 1.0, 2},
          {"forward ms", "forward_us", 1e3, 1},
          {"GB/s", "achieved_bytes_per_s", 1e9, 1},
          {"of peak %", "bandwidth_ratio", 0.01, 1},
          {"attention ms", "attention_us", 1e3, 1},
          {"x sequence", "attention_speedup_over_sequence", 1.0, 2},
          {"KV GB/s", "attention_bytes_per_s", 1e9, 1},
          {"of peak %", "attention_bandwidth_ratio", 0.01, 1},
          {"plan ms", "plan_us", 1e3, 2},
          {"outside ms", "outside_forward_us", 1e3, 2},
          {"KV MB", "kv_read_bytes", 1e6, 1},
          {"of sequence", "kv_read_bytes_sequence", 1e6, 1},
          {"of roofline %", "roofline_ratio", 0.01, 1}};
}

}  // namespace

Result<Report> RunReplay(const ReplayOptions& options) {
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  if (report.load_average > kQuietLoad)
    progress.Say("warning: the machine has not been idle; where other programs run, figures are too low");
  std::vector<std::vector<ReplayWindow>> windows;
  Needs needs;
  for (const ReplayWorkload& workload : options.workloads) {
    windows.push_back(MakeWindows(options, workload));
    for (const ReplayWindow& window : windows.back()) needs.Cover(window, options.model.block_tokens);
  }
  const ModelConfig config = options.model.Config(needs.path_tokens);
  if (Status status = CheckMemory(options, config, needs); !status) return status.error();
  progress.Say("making the model");
  const auto runner =
      RandomModel(config, options.seed, options.model.Runner(ChunkTokens(options, needs), needs.blocks));
  if (!runner) return runner.error();
  const ModelInfo& info = (*runner)->info();
  report.backend = info.backend;
  progress.Say("measuring the machine");
  const auto peak = PeakOf(options.model, info.backend.threads);
  if (!peak) return peak.error();
  report.peak = *peak;
  const StepCost cost(options.model, info, *peak);

  const int32_t chunk = ChunkTokens(options, needs);
  const SchedulerOptions scheduling =
      BenchScheduling(info, needs.branches, chunk, chunk, options.modes.front());
  for (size_t w = 0; w < windows.size(); ++w) {
    std::vector<ModeSums> sums;
    for (const AttentionMode mode : options.modes) sums.push_back({.mode = mode});
    for (const ReplayWindow& window : windows[w]) {
      const auto samples = RunWindow(window, options, scheduling, runner->get());
      if (!samples) return samples.error();
      for (size_t m = 0; m < sums.size(); ++m) {
        sums[m].Add((*samples)[m], cost);
        char text[200];
        std::snprintf(text, sizeof text,
                      "%s, %s: %lld tokens given, %lld sampled, %.1f ms of decoding so far",
                      options.workloads[w].name.c_str(), std::string(Name(sums[m].mode)).c_str(),
                      static_cast<long long>(window.given_tokens),
                      static_cast<long long>(window.generated_tokens), sums[m].decode_us * 1e-3);
        progress.Say(text);
      }
    }
    for (const ModeSums& mode : sums)
      report.rows.push_back(Row(options.workloads[w], info, sums, mode, cost));
  }
  char title[200];
  std::snprintf(title, sizeof title,
                "model    random, %.3f M parameters, %s, %d layers, %.1f MB of %s weights read a step; "
                "%d windows of %d steps a tree, %d repeats",
                static_cast<double>(info.parameters) * 1e-6, Name(info.backend.dtype), info.attention.layers,
                static_cast<double>(info.weight_bytes) * 1e-6, Name(info.backend.weights, info.backend.dtype),
                options.windows, options.window_steps, options.repeats);
  report.title = title;
  report.columns = Columns();
  return report;
}

}  // namespace espalier::bench
