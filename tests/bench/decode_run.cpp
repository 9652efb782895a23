#include "tests/bench/decode_run.h"

#include <chrono>
#include <deque>
#include <random>
#include <string>
#include <utility>

#include "engine/tree_event.h"

namespace espalier::bench {

namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
}

// The engine's loop around scheduler and runner, with a sample for each step.
class Loop {
 public:
  Loop(ModelRunner& runner, const SchedulerOptions& options, const TreeRequest& request)
      : runner_(runner), scheduler_(options, nullptr), request_(request) {}

  Result<std::vector<StepSample>> Run() {
    scheduler_.Submit(1, request_);
    last_end_ = Clock::now();
    while (!scheduler_.idle()) {
      while (Issue()) {
      }
      if (in_flight_.empty() && !scheduler_.idle())
        return InternalError("the scheduler has work and plans none");
      if (in_flight_.empty()) break;
      if (const Status status = Commit(); !status.ok()) return status.error();
    }
    if (const Status status = CheckEnd(); !status.ok()) return status.error();
    return std::move(samples_);
  }

 private:
  struct InFlight {
    Clock::time_point begin;
    StepSample sample;
  };

  bool Issue() {
    const auto begin = Clock::now();
    std::shared_ptr<const StepInput> step = scheduler_.Next();
    TakeEvents();
    if (step == nullptr) return false;
    const int64_t plan_us = scheduler_.Stats().plan_us;
    StepSample sample;
    sample.rows = step->batch.rows();
    sample.logit_rows = static_cast<int32_t>(step->logit_rows.size());
    sample.plan_us = static_cast<double>(plan_us - std::exchange(plan_us_, plan_us));
    sample.accounting = step->plan.accounting;
    const auto prompt_tokens = static_cast<int32_t>(Prompt().token_ids.size());
    for (const int32_t position : step->batch.row_position) sample.prefill |= position < prompt_tokens;
    in_flight_.push_back({begin, sample});
    runner_.Issue(std::move(step));
    return true;
  }

  Status Commit() {
    const Result<StepResult> result = runner_.Wait();
    if (!result) return result.error();
    scheduler_.Commit(*result);
    TakeEvents();
    const auto end = Clock::now();
    auto [begin, sample] = in_flight_.front();
    in_flight_.pop_front();
    sample.step_us = MicrosecondsBetween(std::max(begin, last_end_), end);
    sample.attention_us = static_cast<double>(result->times.attention_us);
    sample.outside_forward_us = std::max(0.0, sample.step_us - static_cast<double>(result->times.forward_us));
    last_end_ = end;
    samples_.push_back(sample);
    return {};
  }

  void TakeEvents() {
    for (RequestEvent& happened : scheduler_.TakeEvents()) {
      if (std::holds_alternative<TreeFinished>(happened.event) ||
          std::holds_alternative<Error>(happened.event))
        end_ = std::move(happened.event);
    }
  }

  Status CheckEnd() const {
    if (const auto* error = std::get_if<Error>(&end_)) return *error;
    const auto* finished = std::get_if<TreeFinished>(&end_);
    if (finished == nullptr) return InternalError("the request ended without a last event");
    const auto& generate = std::get<GenerateSpec>(request_.nodes[1].content);
    const int64_t expected = int64_t{generate.branches} * generate.max_new_tokens;
    const int64_t computed = static_cast<int64_t>(Prompt().token_ids.size()) + expected - generate.branches;
    if (finished->usage.generated_tokens == expected && finished->usage.computed_tokens == computed)
      return {};
    return InternalError("the engine made " + std::to_string(finished->usage.generated_tokens) +
                         " tokens in " + std::to_string(finished->usage.computed_tokens) +
                         " rows instead of " + std::to_string(expected) + " in " + std::to_string(computed));
  }

  const GivenSpec& Prompt() const { return std::get<GivenSpec>(request_.nodes[0].content); }

  ModelRunner& runner_;
  Scheduler scheduler_;
  const TreeRequest& request_;
  std::deque<InFlight> in_flight_;
  std::vector<StepSample> samples_;
  Clock::time_point last_end_;
  int64_t plan_us_ = 0;
  TreeEvent end_;
};

}  // namespace

TreeRequest FanOut(int32_t prompt_tokens, int32_t branches, int32_t new_tokens, int32_t vocab,
                   uint64_t seed) {
  std::mt19937_64 random(seed);
  GivenSpec prompt;
  for (int32_t i = 0; i < prompt_tokens; ++i)
    prompt.token_ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = new_tokens;
  generate.ignore_eos = true;
  TreeRequest request;
  request.nodes.push_back({"prompt", -1, std::move(prompt)});
  request.nodes.push_back({"branches", 0, std::move(generate)});
  request.seed = seed;
  return request;
}

Result<std::vector<StepSample>> RunRequest(ModelRunner& runner, const SchedulerOptions& options,
                                           const TreeRequest& request) {
  SchedulerOptions timed = options;
  timed.now_us = NowUs;
  return Loop(runner, timed, request).Run();
}

}  // namespace espalier::bench
