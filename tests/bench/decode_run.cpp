#include "tests/bench/decode_run.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <random>
#include <string>
#include <utility>

#include "engine/tree_event.h"
#include "tests/bench/clock.h"

namespace espalier::bench {

namespace {

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
}

SchedulerOptions Timed(SchedulerOptions options) {
  options.now_us = NowUs;
  return options;
}

}  // namespace

class RequestLoop::Impl {
 public:
  Impl(ModelRunner& runner, SchedulerOptions options)
      : runner_(runner), scheduler_(Timed(std::move(options)), nullptr) {}

  void SetAttentionMode(AttentionMode mode) { scheduler_.SetAttentionMode(mode); }
  const TreeUsage& last_usage() const { return std::get<TreeFinished>(end_).usage; }

  Result<std::vector<StepSample>> Run(const TreeRequest& request) {
    if (const Status status = RunToEnd(request); !status.ok()) return status.error();
    return std::move(samples_);
  }

 private:
  struct InFlight {
    Clock::time_point begin;
    StepSample sample;
  };

  Status RunToEnd(const TreeRequest& request) {
    samples_.clear();
    scheduler_.Submit(++submitted_, request);
    last_end_ = Clock::now();
    while (!scheduler_.idle()) {
      while (Issue()) {
      }
      if (in_flight_.empty() && !scheduler_.idle())
        return InternalError("the scheduler has work and plans none");
      if (in_flight_.empty()) break;
      if (Status status = Commit(); !status.ok()) return status;
    }
    return CheckEnd(request);
  }

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
    // Every row that decodes needs its logits.
    sample.prefill = (samples_.empty() && in_flight_.empty()) || sample.logit_rows < sample.rows;
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
    sample.forward_us = static_cast<double>(result->times.forward_us);
    sample.outside_forward_us = std::max(0.0, sample.step_us - sample.forward_us);
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

  Status CheckEnd(const TreeRequest& request) const {
    if (const auto* error = std::get_if<Error>(&end_)) return *error;
    const auto* finished = std::get_if<TreeFinished>(&end_);
    if (finished == nullptr) return InternalError("the request ended without a last event");
    int64_t expected = 0;
    for (const TreeNodeSpec& node : request.nodes) {
      if (const auto* generate = std::get_if<GenerateSpec>(&node.content))
        expected += int64_t{generate->branches} * generate->max_new_tokens;
    }
    const TreeUsage& usage = finished->usage;
    const int64_t min = usage.distinct_tokens - usage.cached_tokens;
    if (usage.generated_tokens == expected && usage.computed_tokens >= min &&
        usage.computed_tokens <= usage.distinct_tokens)
      return {};
    return InternalError("the engine made " + std::to_string(usage.generated_tokens) + " tokens in " +
                         std::to_string(usage.computed_tokens) + " rows instead of " +
                         std::to_string(expected) + " in " + std::to_string(min) + " to " +
                         std::to_string(usage.distinct_tokens));
  }

  ModelRunner& runner_;
  Scheduler scheduler_;
  std::deque<InFlight> in_flight_;
  std::vector<StepSample> samples_;
  Clock::time_point last_end_;
  int64_t plan_us_ = 0;
  TreeEvent end_;
  uint64_t submitted_ = 0;
};

RequestLoop::RequestLoop(ModelRunner& runner, SchedulerOptions options)
    : impl_(std::make_unique<Impl>(runner, std::move(options))) {}
RequestLoop::~RequestLoop() = default;

void RequestLoop::SetAttentionMode(AttentionMode mode) { impl_->SetAttentionMode(mode); }
Result<std::vector<StepSample>> RequestLoop::Run(const TreeRequest& request) { return impl_->Run(request); }
const TreeUsage& RequestLoop::last_usage() const { return impl_->last_usage(); }

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

SchedulerOptions BenchScheduling(const ModelInfo& info, int32_t branches, int32_t max_rows,
                                 int32_t prefill_chunk_tokens, AttentionMode mode) {
  SchedulerOptions scheduler;
  scheduler.engine.block_tokens = info.block_tokens;
  scheduler.engine.total_blocks = info.kv_blocks;
  scheduler.engine.max_branches = branches;
  scheduler.engine.max_batch_rows = max_rows;
  scheduler.engine.prefill_chunk_tokens = prefill_chunk_tokens;
  scheduler.engine.attention_mode = mode;
  scheduler.attention = info.attention;
  scheduler.plan = info.backend.plan;
  scheduler.steps_in_flight = std::min(info.backend.steps_in_flight, 2);
  scheduler.max_path_tokens = info.max_positions;
  return scheduler;
}

}  // namespace espalier::bench
