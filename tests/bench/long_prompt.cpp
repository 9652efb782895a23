#include "tests/bench/long_prompt.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/scheduler.h"
#include "engine/step_costs.h"
#include "model/backend_runner.h"
#include "tests/bench/clock.h"
#include "tests/bench/decode_run.h"
#include "tests/bench/progress.h"
#include "tests/bench/statistics.h"

namespace espalier::bench {

namespace {

constexpr int32_t kOwnPrompt = 64;  // tokens of the decoding branches' prompt

int32_t NewTokens(const LongPromptOptions& options) { return 2 * options.steps + 16; }

// The engine's loop for several requests, a step at a time.
class SteppedLoop {
 public:
  SteppedLoop(ModelRunner& runner, SchedulerOptions options, bool by_time)
      : runner_(runner), scheduler_(WithCosts(std::move(options), by_time ? &costs_ : nullptr), nullptr) {}

  uint64_t Submit(const TreeRequest& request) {
    scheduler_.Submit(++submitted_, request);
    return submitted_;
  }

  // The time of a step, from the end of the one before.
  Result<double> Step() {
    while (std::shared_ptr<const StepInput> step = scheduler_.Next()) {
      if (in_flight_.empty()) last_end_ = std::max(last_end_, Clock::now());
      in_flight_.push_back(LoadOf(*step));
      runner_.Issue(std::move(step));
    }
    if (in_flight_.empty()) return InternalError("the scheduler has work and plans none");
    const Result<StepResult> result = runner_.Wait();
    if (!result) return result.error();
    scheduler_.Commit(*result);
    costs_.Add(in_flight_.front(), static_cast<double>(std::max<int64_t>(result->times.forward_us, 1)));
    in_flight_.pop_front();
    TakeEvents();
    const auto end = Clock::now();
    const double us = MicrosecondsBetween(std::exchange(last_end_, end), end);
    return us;
  }

  Status RunUntilEnd(uint64_t id) {
    while (!ended_[id]) {
      if (const Result<double> step = Step(); !step) return step.error();
    }
    return {};
  }

  bool has_tokens(uint64_t id) const { return tokens_.count(id) > 0; }
  bool ended(uint64_t id) const { return ended_.count(id) > 0; }
  int32_t computed(uint64_t id) const { return computed_.count(id) > 0 ? computed_.at(id) : 0; }
  void Cancel(uint64_t id) { scheduler_.Cancel(id); }
  // Ends all that runs, so that nothing is in flight and nothing cached.
  Status Clear() {
    for (uint64_t id = 1; id <= submitted_; ++id) scheduler_.Cancel(id);
    while (!in_flight_.empty()) {
      const Result<StepResult> result = runner_.Wait();
      if (!result) return result.error();
      scheduler_.Commit(*result);
      in_flight_.pop_front();
    }
    TakeEvents();
    scheduler_.FlushCache();
    return {};
  }

 private:
  static SchedulerOptions WithCosts(SchedulerOptions options, const StepCosts* costs) {
    options.policy.step_costs = costs;
    return options;
  }

  void TakeEvents() {
    for (const RequestEvent& happened : scheduler_.TakeEvents()) {
      const uint64_t id = happened.request_id;
      if (const auto* delta = std::get_if<TreeDelta>(&happened.event)) {
        for (const BranchDelta& branch : delta->branches) {
          if (branch.node > 0 && !branch.token_ids.empty()) tokens_[id] = true;
        }
      }
      if (const auto* progress = std::get_if<TreeProgress>(&happened.event))
        computed_[id] = progress->computed_tokens;
      if (std::holds_alternative<TreeFinished>(happened.event) ||
          std::holds_alternative<Error>(happened.event))
        ended_[id] = true;
    }
  }

  ModelRunner& runner_;
  StepCosts costs_;
  Scheduler scheduler_;
  std::deque<StepLoad> in_flight_;
  Clock::time_point last_end_;
  uint64_t submitted_ = 0;
  std::map<uint64_t, bool> tokens_;
  std::map<uint64_t, bool> ended_;
  std::map<uint64_t, int32_t> computed_;
};

struct Figures {
  std::vector<double> alone_us;
  std::vector<double> beside_us;
  int32_t short_steps = 0;
  double prefill_tokens = 0.0;
};

Status StepTimes(SteppedLoop* loop, int32_t steps, std::vector<double>* times) {
  for (int32_t i = 0; i < steps; ++i) {
    const Result<double> us = loop->Step();
    if (!us) return us.error();
    times->push_back(*us);
  }
  return {};
}

// The first tokens of the long prompt, as a request of their own.
TreeRequest Prefix(const TreeRequest& request, int32_t tokens) {
  TreeRequest prefix = request;
  auto& given = std::get<GivenSpec>(prefix.nodes[0].content);
  given.token_ids.resize(static_cast<size_t>(tokens));
  return prefix;
}

Status RunOnce(const LongPromptOptions& options, SteppedLoop* loop, Figures* figures) {
  const int32_t vocab = options.model.vocab;
  const TreeRequest longer = FanOut(options.long_tokens, 1, 1, vocab, options.seed + 1);
  if (options.cached_tokens > 0) {
    const Status status = loop->RunUntilEnd(loop->Submit(Prefix(longer, options.cached_tokens)));
    if (!status.ok()) return status;
  }
  const uint64_t decoding =
      loop->Submit(FanOut(kOwnPrompt, options.branches, NewTokens(options), vocab, options.seed));
  constexpr int32_t kWarmUp = 8;
  std::vector<double> ignored;
  if (Status status = StepTimes(loop, kWarmUp, &ignored); !status.ok()) return status;
  if (Status status = StepTimes(loop, options.steps, &figures->alone_us); !status.ok()) return status;

  const uint64_t long_id = loop->Submit(longer);
  uint64_t short_id = 0;
  int32_t short_steps = 0;
  int32_t computed_before = -1;
  for (int32_t i = 0; i < options.steps && !loop->ended(long_id); ++i) {
    if (i == options.steps / 4)
      short_id = loop->Submit(FanOut(options.short_tokens, 1, 1, vocab, options.seed + 2));
    if (short_id != 0 && !loop->has_tokens(short_id)) ++short_steps;
    if (Status status = StepTimes(loop, 1, &figures->beside_us); !status.ok()) return status;
    if (computed_before < 0) computed_before = loop->computed(long_id);
  }
  if (loop->ended(decoding)) return InternalError("the decoding branches ended before the measurement");
  const bool came = short_id != 0 && loop->has_tokens(short_id);
  figures->short_steps = !came || figures->short_steps < 0 ? -1 : std::max(figures->short_steps, short_steps);
  const int32_t computed = loop->ended(long_id) ? options.long_tokens : loop->computed(long_id);
  figures->prefill_tokens += computed - std::max(computed_before, 0);
  return loop->Clear();
}

Json Row(const LongPromptOptions& options, const ModelInfo& info, AttentionMode mode, bool by_time,
         const Figures& figures) {
  CommonFields common;
  common.workload = std::to_string(options.branches) + " beside " + std::to_string(options.long_tokens);
  common.backend = info.backend.name;
  common.mode = mode;
  common.shape = info.attention;
  common.measured_us = Median(figures.beside_us);
  const double alone_us = Median(figures.alone_us);
  const double p99_us = Quantile(figures.beside_us, 0.99);
  double total_us = 0.0;
  for (const double us : figures.beside_us) total_us += us;
  Json row = MakeRow(common);
  row["shared_by"] = by_time ? "time" : "rows";
  row["alone_us"] = RoundUs(alone_us);
  row["beside_us"] = {{"median", RoundUs(common.measured_us)}, {"p99", RoundUs(p99_us)}};
  row["p99_ratio"] = p99_us / alone_us;
  row["short_steps"] = figures.short_steps;
  row["prefill_tokens_per_s"] = figures.prefill_tokens / total_us * 1e6;
  return row;
}

}  // namespace

int32_t LongPromptOptions::max_rows() const { return std::max(2 * branches, prefill_chunk_tokens); }

int32_t LongPromptOptions::max_positions() const {
  return std::max(long_tokens + 1, kOwnPrompt + NewTokens(*this));
}

int32_t LongPromptOptions::Blocks() const {
  const int32_t block = model.block_tokens;
  const int32_t of_branch = NewTokens(*this) / block + 2;
  return (long_tokens + short_tokens + kOwnPrompt) / block + 8 + branches * of_branch;
}

Result<Report> RunLongPrompt(const LongPromptOptions& options) {
  const Progress progress;
  Report report;
  report.load_average = LoadAverage();
  if (report.load_average > kQuietLoad)
    progress.Say("warning: the machine has not been idle; where other programs run, steps vary");
  progress.Say("making the model");
  const ModelConfig config = options.model.Config(options.max_positions());
  const auto runner =
      RandomModel(config, options.seed, options.model.Runner(options.max_rows(), options.Blocks()));
  if (!runner) return runner.error();
  const ModelInfo& info = (*runner)->info();
  report.backend = info.backend;
  for (const AttentionMode mode : options.modes) {
    const SchedulerOptions scheduling =
        BenchScheduling(info, options.branches, options.max_rows(), options.prefill_chunk_tokens, mode);
    Figures by_time;
    Figures by_rows;
    for (int32_t repeat = 0; repeat < options.repeats; ++repeat) {
      for (Figures* figures : {&by_time, &by_rows}) {
        SteppedLoop loop(**runner, scheduling, figures == &by_time);
        if (const Status status = RunOnce(options, &loop, figures); !status.ok()) return status.error();
        progress.Say("repeat " + std::to_string(repeat + 1) +
                     (figures == &by_time ? ", by time" : ", by rows"));
      }
    }
    report.rows.push_back(Row(options, info, mode, true, by_time));
    report.rows.push_back(Row(options, info, mode, false, by_rows));
  }
  char title[200];
  std::snprintf(title, sizeof title,
                "model    random, %.3f M parameters, %s, %d layers; %d steps, %d repeats",
                static_cast<double>(info.parameters) * 1e-6, Name(info.backend.dtype), info.attention.layers,
                options.steps, options.repeats);
  report.title = title;
  report.columns = {{"workload", "workload"},
                    {"shared by", "shared_by"},
                    {"alone ms", "alone_us", 1e3, 1},
                    {"beside ms", "beside_us/median", 1e3, 1},
                    {"p99 ms", "beside_us/p99", 1e3, 1},
                    {"p99 ratio", "p99_ratio", 1.0, 2},
                    {"short after", "short_steps"},
                    {"prefill tok/s", "prefill_tokens_per_s", 1.0, 0}};
  return report;
}

}  // namespace espalier::bench
