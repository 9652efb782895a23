#include "tests/engine/fakes/scheduler_harness.h"

#include <utility>

#include "tests/engine/fakes/fake_tokenizer.h"

namespace espalier::test {

SchedulerHarness::SchedulerHarness(const HarnessOptions& options)
    : options_(options), model_(options.runner.model), runner_(std::make_unique<FakeRunner>(options.runner)) {
  if (options.with_text) tokenizer_ = MakeFakeTokenizer(options.runner.model.vocab_size);
  const ModelInfo& info = runner_->info();
  plan_ = info.backend.plan;
  plan_.mode = options.attention_mode;
  SchedulerOptions scheduler;
  scheduler.engine.block_tokens = info.block_tokens;
  scheduler.engine.total_blocks = info.kv_blocks;
  scheduler.engine.max_branches = options.max_branches;
  scheduler.engine.max_batch_rows = options.max_batch_rows;
  scheduler.engine.prefill_chunk_tokens = options.prefill_chunk_tokens;
  scheduler.engine.attention_mode = options.attention_mode;
  scheduler.engine.check_invariants = true;
  scheduler.policy = options.policy;
  scheduler.attention = info.attention;
  scheduler.plan = plan_;
  scheduler.steps_in_flight = info.backend.steps_in_flight;
  scheduler.max_path_tokens = info.max_positions;
  scheduler.eos_token_ids = info.eos_token_ids;
  scheduler.shuffle_seed = options.shuffle_seed;
  scheduler_ = std::make_unique<Scheduler>(std::move(scheduler), tokenizer_);
}

EngineLimits SchedulerHarness::limits() const {
  const ModelInfo& info = runner_->info();
  return {.max_branches = options_.max_branches,
          .max_path_tokens = info.max_positions,
          .vocab_size = info.vocab_size,
          .block_tokens = info.block_tokens,
          .total_blocks = info.kv_blocks};
}

uint64_t SchedulerHarness::Submit(TreeRequest request) {
  const uint64_t id = next_id_++;
  SubmitAs(id, std::move(request));
  return id;
}

void SchedulerHarness::SubmitAs(uint64_t id, TreeRequest request) {
  requests_[id].request = request;
  scheduler_->Submit(id, std::move(request));
  AfterCall();
}

void SchedulerHarness::Close(uint64_t id) {
  scheduler_->Close(id);
  AfterCall();
}

void SchedulerHarness::Cancel(uint64_t id) {
  scheduler_->Cancel(id);
  AfterCall();
}

int32_t SchedulerHarness::Flush() {
  const int32_t freed = scheduler_->FlushCache();
  AfterCall();
  return freed;
}

bool SchedulerHarness::Issue() {
  if (runner_->in_flight() >= options_.runner.steps_in_flight) return false;
  std::shared_ptr<const StepInput> step = scheduler_->Next();
  while (step == nullptr && scheduler_->expanding() && runner_->in_flight() == 0) {
    AfterCall();
    step = scheduler_->Next();
  }
  if (step == nullptr) {
    AfterCall();
    return false;
  }
  CheckStep(*step);
  last_issued_ = step;
  runner_->Issue(std::move(step));
  AfterCall();
  return true;
}

bool SchedulerHarness::Commit() {
  if (runner_->in_flight() == 0) return false;
  const Result<StepResult> result = runner_->Wait();
  Report(runner_->device()->Problem());
  if (!problem_.empty()) return false;  // the result may be incomplete
  scheduler_->Commit(*result);
  AfterCall();
  return true;
}

bool SchedulerHarness::Step() {
  bool issued = false;
  while (Issue()) issued = true;
  return Commit() || issued;
}

void SchedulerHarness::RunUntilIdle() {
  constexpr int kMaxSteps = 100'000;
  int steps = 0;
  while (problem_.empty() && Step()) {
    if (++steps > kMaxSteps) Report("requests keep one another from their end");
  }
  if (scheduler_->runnable()) Report("nothing can run, yet requests are left");
}

bool SchedulerHarness::ended(uint64_t id) const {
  const std::vector<TreeEvent>& events = requests_.at(id).events;
  return !events.empty() && (std::holds_alternative<TreeFinished>(events.back()) ||
                             std::holds_alternative<Error>(events.back()));
}

const TreeFinished& SchedulerHarness::finished(uint64_t id) const {
  ESPALIER_CHECK(!events(id).empty() && std::holds_alternative<TreeFinished>(events(id).back()));
  return std::get<TreeFinished>(events(id).back());
}

std::string SchedulerHarness::Compare(uint64_t id) const {
  return CompareWithNaive(request(id), events(id), model_, tokenizer_.get());
}

void SchedulerHarness::Report(const std::string& problem) {
  if (problem_.empty()) problem_ = problem;
}

void SchedulerHarness::CheckStep(const StepInput& step) {
  if (step.batch.rows() > options_.max_batch_rows) Report("more rows than max_batch_rows");
  if (step.batch.rows() == 0 && step.copies.empty() && step.samples.empty()) Report("a step without work");
  const Status plan = CheckPlan(step.batch, step.plan, plan_);
  if (!plan.ok()) Report("plan: " + plan.error().ToString());
}

void SchedulerHarness::AfterCall() {
  for (RequestEvent& event : scheduler_->TakeEvents()) {
    const auto request = requests_.find(event.request_id);
    if (request == requests_.end()) {
      Report("an event of a request that has ended or never was");
    } else {
      if (ended(event.request_id)) Report("an event after the last one");
      request->second.events.push_back(event.event);
    }
    new_events_.push_back(std::move(event));
  }
  const Status invariants = scheduler_->CheckInvariants();
  if (!invariants.ok()) Report("invariant: " + invariants.error().ToString());
  const EngineStats stats = scheduler_->Stats();
  const int32_t sum = stats.blocks_free + stats.blocks_indexed + stats.blocks_live + stats.blocks_scratch;
  if (sum != stats.blocks_total) Report("blocks do not add up to the total");
  const std::vector<int32_t> free = scheduler_->FreeBlocks();
  runner_->device()->With([&](FakeDevice& device) { device.Poison(free); });
}

}  // namespace espalier::test
