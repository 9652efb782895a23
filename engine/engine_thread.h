#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_gate.h"
#include "engine/event_delivery.h"
#include "engine/failure_notice.h"
#include "engine/scheduler.h"

namespace espalier {

// The engine: a thread that runs the steps, and the way to it through the gate. The members of the last group
// belong to the thread; others ask it to run commands (Scheduler::Prepare alone is called by clients'
// threads).
class EngineThread final : public Engine {
 public:
  // Preconditions: those that Engine::Create checks.
  EngineThread(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
               std::shared_ptr<const Tokenizer> tokenizer);
  ~EngineThread() override;

  const ModelInfo& model() const override { return runner_->info(); }
  const EngineLimits& limits() const override { return limits_; }

  Result<uint64_t> Submit(TreeRequest request, std::shared_ptr<TreeEventSink> sink) override;
  void Cancel(uint64_t request_id) override;
  void Close(uint64_t request_id) override;
  EngineStats Stats() const override { return gate_.Stats(); }
  TreeSnapshot Snapshot() const override;
  int32_t FlushCache() override;
  void Drain(int64_t timeout_us) override;
  void OnFailure(std::function<void(const Error&)> handler) override;
  int64_t RetryAfterMs() const override { return gate_.RetryAfterMs(); }

 private:
  using Command = EngineGate::Command;

  // Runs on the engine's thread, between steps; returns when it has run. False: the thread has ended.
  bool RunBetweenSteps(const std::function<void()>& action) const;

  void Run();
  void RunSteps();
  void Abandon(const Error& error);
  bool TakeCommands();
  void IssueSteps();
  void CommitStep();
  void Fail(Error error);
  void Publish();
  void PublishAndDeliver();

  const bool has_tokenizer_;
  const EngineLimits limits_;
  mutable EngineGate gate_;
  FailureNotice failure_notice_;

  std::unique_ptr<ModelRunner> runner_;
  StepCosts step_costs_;
  Scheduler scheduler_;
  EventDelivery delivery_;
  EngineStats times_;
  struct InFlight {
    int64_t begin_us = 0;
    StepLoad load;
  };
  std::deque<InFlight> in_flight_;  // steps
  std::vector<Command> taken_;      // being run, last first
  bool failed_ = false;

  std::thread thread_;  // last: runs when everything else is there
};

}  // namespace espalier
