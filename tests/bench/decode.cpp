#include "tests/bench/decode.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "engine/scheduler.h"
#include "model/backend_runner.h"
#include "tests/bench/decode_run.h"
#include "tests/bench/progress.h"
#include "tests/bench/statistics.h"
#include "tests/bench/step_cost.h"

namespace espalier::bench {

namespace {

// The steps of all repeats of one case.
struct Samples {
  std::vector<StepSample> decode;
  std::vector<StepSample> prefill;
  std::vector<double> decode_tokens_per_s;   // [repeats]
  std::vector<double> prefill_tokens_per_s;  // [repeats]

  void Add(const std::vector<StepSample>& steps) {
    double us[2] = {0.0, 0.0};
    double rows[2] = {0.0, 0.0};
    for (const StepSample& step : steps) {
      (step.prefill ? prefill : decode).push_back(step);
      us[step.prefill ? 1 : 0] += step.step_us;
      rows[step.prefill ? 1 : 0] += step.rows;
    }
    decode_tokens_per_s.push_back(rows[0] / us[0] * 1e6);
    prefill_tokens_per_s.push_back(rows[1] / us[1] * 1e6);
  }
};

template <typename Field>
std::vector<double> Each(const std::vector<StepSample>& steps, Field field) {
  std::vector<double> values;
  values.reserve(steps.size());
  for (const StepSample& step : steps) values.push_back(static_cast<double>(field(step)));
  return values;
}

class DecodeBench {
 public:
  DecodeBench(const DecodeOptions& options, std::unique_ptr<ModelRunner> runner, const Peak& peak)
      : options_(options), runner_(std::move(runner)), cost_(options.model, runner_->info(), peak) {}

  // Scratch memory grows and pages come in before anything is measured.
  Status WarmUp() {
    const int32_t max = options_.MaxBranches();
    const int32_t prompt = std::min(options_.prompt_tokens, options_.prefill_chunk_tokens);
    const TreeRequest request = FanOut(prompt, max, 2, options_.model.vocab, options_.seed);
    const auto steps = RequestLoop(*runner_, Scheduling(max, options_.modes.front())).Run(request);
    return steps ? Status() : Status(steps.error());
  }

  // All modes in turn in each repeat, so that a machine that changes pace changes it for all of them.
  Result<std::vector<Json>> RunBranches(int32_t branches, const Progress& progress) {
    const TreeRequest request =
        FanOut(options_.prompt_tokens, branches, options_.new_tokens, options_.model.vocab, options_.seed);
    std::vector<Samples> samples(options_.modes.size());
    for (int32_t repeat = 0; repeat < options_.repeats; ++repeat) {
      for (size_t i = 0; i < options_.modes.size(); ++i) {
        const auto steps = RequestLoop(*runner_, Scheduling(branches, options_.modes[i])).Run(request);
        if (!steps) return steps.error();
        samples[i].Add(*steps);
        ShowProgress(branches, options_.modes[i], samples[i], progress);
      }
    }
    std::vector<Json> rows;
    for (size_t i = 0; i < samples.size(); ++i) rows.push_back(Row(branches, options_.modes[i], samples[i]));
    return rows;
  }

  const ModelInfo& model() const { return runner_->info(); }

 private:
  SchedulerOptions Scheduling(int32_t branches, AttentionMode mode) const {
    return BenchScheduling(runner_->info(), branches, options_.MaxRows(branches),
                           options_.prefill_chunk_tokens, mode);
  }

  void ShowProgress(int32_t branches, AttentionMode mode, const Samples& samples,
                    const Progress& progress) const {
    const BackendInfo& backend = runner_->info().backend;
    const char* weights = Name(backend.weights, backend.dtype);
    char text[160];
    std::snprintf(text, sizeof text, "%d branches, %s, %s: prefill %.0f tokens/s, decode %.1f tokens/s",
                  branches, weights, std::string(Name(mode)).c_str(), samples.prefill_tokens_per_s.back(),
                  samples.decode_tokens_per_s.back());
    progress.Say(text);
  }

  Json Row(int32_t branches, AttentionMode mode, const Samples& samples) const {
    const ModelInfo& info = runner_->info();
    const auto& decode = samples.decode;
    const auto mean = [&](auto field) { return Mean(Each(decode, field)); };
    const auto median = [&](auto field) { return Median(Each(decode, field)); };
    const auto step_us = Each(decode, [](const StepSample& s) { return s.step_us; });

    CommonFields common;
    common.workload = "decode";
    common.backend = info.backend.name;
    common.mode = mode;
    common.shape = info.attention;
    common.kv_read_bytes = mean([](const StepSample& s) { return s.accounting.kv_read_bytes; });
    common.kv_read_bytes_sequence =
        mean([](const StepSample& s) { return s.accounting.kv_read_bytes_sequence; });
    common.partial_bytes = mean([](const StepSample& s) { return s.accounting.partial_bytes; });
    common.mask_bytes = mean([](const StepSample& s) { return s.accounting.mask_bytes; });
    common.flop = mean([&](const StepSample& s) { return cost_.Flop(s); });
    common.roofline_us = mean([&](const StepSample& s) { return cost_.RooflineUs(s); });
    common.measured_us = Median(step_us);
    common.plan_us = median([](const StepSample& s) { return s.plan_us; });
    Json row = MakeRow(common);
    row["branches"] = branches;
    row["prefill_tokens_per_s"] = Median(samples.prefill_tokens_per_s);
    row["decode_tokens_per_s"] = Median(samples.decode_tokens_per_s);
    row["step_us"] = {{"median", RoundUs(Median(step_us))}, {"p99", RoundUs(Quantile(step_us, 0.99))}};
    cost_.AddReached(median([](const StepSample& s) { return s.forward_us; }),
                     median([](const StepSample& s) { return s.attention_us; }),
                     mean([&](const StepSample& s) { return cost_.Bytes(s); }), common.kv_read_bytes, &row);
    row["outside_forward_us"] = RoundUs(median([](const StepSample& s) { return s.outside_forward_us; }));
    row["weights"] = Name(info.backend.weights, info.backend.dtype);
    row["weight_bytes"] = info.weight_bytes;
    AddDetails(samples, &row);
    return row;
  }

  // What it takes to repeat and to judge the run.
  void AddDetails(const Samples& samples, Json* row) const {
    double prefill_roofline_us = 0.0;
    double prefill_us = 0.0;
    for (const StepSample& step : samples.prefill) {
      prefill_roofline_us += cost_.RooflineUs(step);
      prefill_us += step.step_us;
    }
    (*row)["prefill_roofline_ratio"] = prefill_roofline_us / prefill_us;
    (*row)["decode_steps"] = samples.decode.size();
    (*row)["repeats"] = options_.repeats;
    (*row)["prompt_tokens"] = options_.prompt_tokens;
    (*row)["new_tokens"] = options_.new_tokens;
    (*row)["layers"] = options_.model.layers;
    (*row)["hidden"] = options_.model.hidden;
    (*row)["ffn"] = options_.model.ffn;
    (*row)["vocab"] = options_.model.vocab;
    (*row)["parameters"] = runner_->info().parameters;
    (*row)["block_tokens"] = options_.model.block_tokens;
    (*row)["prefill_chunk_tokens"] = options_.prefill_chunk_tokens;
  }

  const DecodeOptions options_;
  std::unique_ptr<ModelRunner> runner_;
  const StepCost cost_;
};

std::vector<Column> Columns() {
  return {{"branches", "branches"},
          {"weights", "weights"},
          {"mode", "mode"},
          {"prefill tok/s", "prefill_tokens_per_s", 1.0, 1},
          {"of roofline %", "prefill_roofline_ratio", 0.01, 1},
          {"decode tok/s", "decode_tokens_per_s", 1.0, 1},
          {"step ms", "step_us/median", 1e3, 2},
          {"p99 ms", "step_us/p99", 1e3, 2},
          {"forward ms", "forward_us", 1e3, 2},
          {"GB/s", "achieved_bytes_per_s", 1e9, 1},
          {"of peak %", "bandwidth_ratio", 0.01, 1},
          {"attention ms", "attention_us", 1e3, 2},
          {"KV GB/s", "attention_bytes_per_s", 1e9, 1},
          {"of peak %", "attention_bandwidth_ratio", 0.01, 1},
          {"plan us", "plan_us"},
          {"outside us", "outside_forward_us"},
          {"KV MB", "kv_read_bytes", 1e6, 1},
          {"of sequence", "kv_read_bytes_sequence", 1e6, 1},
          {"roofline ms", "roofline_us", 1e3, 2},
          {"of roofline %", "roofline_ratio", 0.01, 1}};
}

std::string Title(const DecodeOptions& options, const std::vector<ModelInfo>& models) {
  char text[320];
  const ModelInfo& model = models.front();
  const AttentionShape& shape = model.attention;
  std::string read;
  for (const ModelInfo& info : models) {
    char bytes[64];
    std::snprintf(bytes, sizeof bytes, "%s%.1f MB of %s weights", read.empty() ? "" : ", ",
                  static_cast<double>(info.weight_bytes) * 1e-6,
                  Name(info.backend.weights, info.backend.dtype));
    read += bytes;
  }
  std::snprintf(
      text, sizeof text,
      "model    random, %.3f M parameters, %s, %d layers of %d, ffn %d, %d/%d heads of %d, %d tokens, "
      "%s read a step\nwork     prompt of %d tokens, %d new tokens a branch, %d repeats; "
      "from step ms on: a decode step",
      static_cast<double>(model.parameters) * 1e-6, Name(model.backend.dtype), shape.layers,
      options.model.hidden, options.model.ffn, shape.query_heads, shape.kv_heads, shape.head_dim,
      model.vocab_size, read.c_str(), options.prompt_tokens, options.new_tokens, options.repeats);
  return text;
}

}  // namespace

Result<Report> RunDecode(const DecodeOptions& options) {
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  if (report.load_average > kQuietLoad)
    progress.Say("warning: the machine has not been idle; where other programs run, figures are too low");
  const ModelOptions& model = options.model;
  std::vector<std::unique_ptr<ModelRunner>> runners;
  for (const WeightType type : options.weights) {
    progress.Say("making the model");
    auto runner = RandomModel(model.Config(options.max_positions()), options.seed, options.Runner(type));
    if (!runner) return runner.error();
    runners.push_back(std::move(*runner));
  }
  report.backend = runners.front()->info().backend;

  progress.Say("measuring the machine");
  const Result<Peak> peak = PeakOf(model, report.backend.threads);
  if (!peak) return peak.error();
  report.peak = *peak;

  std::vector<DecodeBench> benches;
  std::vector<ModelInfo> models;
  progress.Say("warming up");
  for (auto& runner : runners) {
    models.push_back(runner->info());
    benches.emplace_back(options, std::move(runner), *peak);
    if (const Status status = benches.back().WarmUp(); !status.ok()) return status.error();
  }
  for (const int32_t branches : options.branches) {
    for (DecodeBench& bench : benches) {
      auto rows = bench.RunBranches(branches, progress);
      if (!rows) return rows.error();
      report.rows.insert(report.rows.end(), rows->begin(), rows->end());
    }
  }
  report.title = Title(options, models);
  report.columns = Columns();
  return report;
}

}  // namespace espalier::bench
