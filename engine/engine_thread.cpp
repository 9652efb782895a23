#include "engine/engine_thread.h"

#include <algorithm>
#include <future>
#include <new>
#include <string>
#include <utility>
#include <variant>

#include "engine/engine_clock.h"
#include "kernels/base/exhaustion.h"

namespace espalier {

namespace {

EngineLimits LimitsOf(const EngineOptions& options, const ModelInfo& info) {
  return {.max_branches = options.max_branches,
          .max_path_tokens = info.max_positions,
          .vocab_size = info.vocab_size,
          .block_tokens = options.block_tokens,
          .total_blocks = options.total_blocks,
          .max_answer_bytes = options.max_answer_bytes};
}

SchedulerOptions SchedulerOptionsOf(const EngineOptions& options, const ModelInfo& info,
                                    const StepCosts* step_costs) {
  SchedulerOptions scheduler;
  scheduler.engine = options;
  scheduler.attention = info.attention;
  scheduler.plan = info.backend.plan;
  scheduler.steps_in_flight = std::min(info.backend.steps_in_flight, 2);
  scheduler.max_path_tokens = info.max_positions;
  scheduler.eos_token_ids = info.eos_token_ids;
  scheduler.now_us = EngineNowUs;
  scheduler.policy.step_costs = step_costs;
  return scheduler;
}

Status CheckStopStrings(const TreeRequest& request) {
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    const auto* generate = std::get_if<GenerateSpec>(&request.nodes[i].content);
    if (generate != nullptr && !generate->stop_strings.empty())
      return InvalidArgument("nodes[" + std::to_string(i) + "].generate.stop_strings",
                             "this model has no tokenizer: use stop_token_ids");
  }
  return {};
}

}  // namespace

EngineThread::EngineThread(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
                           std::shared_ptr<const Tokenizer> tokenizer)
    : has_tokenizer_(tokenizer != nullptr),
      limits_(LimitsOf(options, runner->info())),
      gate_(options.max_queued_requests),
      runner_(std::move(runner)),
      scheduler_(SchedulerOptionsOf(options, runner_->info(), &step_costs_), std::move(tokenizer)) {
  Publish();
  thread_ = std::thread([this] { Run(); });
}

EngineThread::~EngineThread() {
  gate_.Stop();
  thread_.join();
}

// Clients' threads.

Result<uint64_t> EngineThread::Submit(TreeRequest request, std::shared_ptr<TreeEventSink> sink) {
  const Status valid = ValidateTreeRequest(request, limits_);
  if (!valid.ok()) return valid.error();
  if (!has_tokenizer_) {
    const Status without_text = CheckStopStrings(request);
    if (!without_text.ok()) return without_text.error();
  }
  const EventDelivery::Client client = EventDelivery::ClientOf(request, std::move(sink), EngineNowUs());
  if (const Status taken = gate_.CheckRoom(client.peer); !taken.ok()) return taken.error();
  const std::shared_ptr<ScheduledRequest> prepared = scheduler_.Prepare(std::move(request));
  return gate_.Enter(
      client.peer,
      [&](uint64_t id) -> Command {
        return {[this, id, client, prepared] {
                  delivery_.Add(id, client);
                  taken_.back().sink.reset();  // it hears as a client from here on
                  scheduler_.Submit(id, prepared);
                },
                client.sink};
      },
      [&](uint64_t id, const Error& reason) -> Command {
        return {[this, id, reason] {  // one that has been started by then goes on
          if (delivery_.Waits(id)) scheduler_.Abort(id, reason);
        }};
      });
}

void EngineThread::Cancel(uint64_t request_id) {
  gate_.Post({[this, request_id] { scheduler_.Cancel(request_id); }});
}

void EngineThread::Close(uint64_t request_id) {
  gate_.Post({[this, request_id] { scheduler_.Close(request_id); }});
}

bool EngineThread::RunBetweenSteps(const std::function<void()>& action) const {
  auto done = std::make_shared<std::promise<bool>>();
  std::future<bool> future = done->get_future();
  const bool posted = gate_.Post({[&action, done] {
    action();
    done->set_value(true);
  }});
  if (!posted) return false;
  done.reset();  // a command that is dropped breaks its promise
  try {
    return future.get();
  } catch (const std::future_error&) {
    return false;
  }
}

TreeSnapshot EngineThread::Snapshot() const {
  TreeSnapshot snapshot;
  RunBetweenSteps([&] { snapshot = scheduler_.Snapshot(); });
  return snapshot;
}

int32_t EngineThread::FlushCache() {
  int32_t freed = 0;
  RunBetweenSteps([&] {
    freed = scheduler_.FlushCache();
    Publish();
  });
  return freed;
}

void EngineThread::Drain(int64_t timeout_us) {
  gate_.Close();
  if (gate_.WaitUntilEmpty(timeout_us)) return;
  gate_.Post({[this] {
    for (const uint64_t id : delivery_.ids()) scheduler_.Abort(id, StoppingError());
  }});
  gate_.WaitUntilEmpty();
}

void EngineThread::OnFailure(std::function<void(const Error&)> handler) {
  failure_notice_.Set(std::move(handler), [this] { return gate_.failure(); });
}

// The thread.

void EngineThread::Run() {
  try {
    RunSteps();
  } catch (const std::bad_alloc&) {
    Abandon(OutOfMemory());
  }
}

void EngineThread::RunSteps() {
  while (TakeCommands()) {
    if (!failed_) IssueSteps();
    PublishAndDeliver();
    if (!in_flight_.empty()) {
      CommitStep();
      PublishAndDeliver();
    } else if (scheduler_.runnable() && !scheduler_.expanding()) {
      Fail(InternalError("the scheduler has work and does not plan it"));
      PublishAndDeliver();
    }
  }
  while (!in_flight_.empty()) CommitStep();  // the runner is not left with steps that are not waited for
  scheduler_.FailAll(StoppingError());
  PublishAndDeliver();
}

// There was no memory for the scheduler's own state, which may be half changed: it is not touched any more.
// Every request ends, and the thread; nothing here asks for memory, but for the handler. Sinks pass over what
// comes after their last event.
void EngineThread::Abandon(const Error& error) {
  std::vector<Command> commands = gate_.Abandon(error);
  delivery_.EndAll(error);
  for (const std::vector<Command>* unheard : {&taken_, &commands}) {
    for (const Command& command : *unheard) {
      if (command.sink != nullptr) command.sink->OnEvent(error);
    }
  }
  taken_.clear();
  gate_.EndAll();
  try {
    failure_notice_.Give(error);
  } catch (const std::bad_alloc&) {  // new requests are refused all the same
  }
}

// Waits for something to do: a request that waits for its client is nothing to do. False: stop.
bool EngineThread::TakeCommands() {
  const bool go_on = gate_.Take(!scheduler_.runnable() && in_flight_.empty(), &taken_);
  std::reverse(taken_.begin(), taken_.end());
  while (!taken_.empty()) {
    taken_.back().run();
    taken_.pop_back();
  }
  for (const auto& [peer, answers] : delivery_.TakeUnreadChanges()) scheduler_.SetUnread(peer, answers);
  if (failed_ && !scheduler_.idle()) scheduler_.FailAll(FailedError());
  return go_on;
}

void EngineThread::IssueSteps() {
  while (true) {
    const int64_t begin_us = EngineNowUs();
    std::shared_ptr<const StepInput> step = scheduler_.Next();
    if (step == nullptr) return;
    in_flight_.push_back({begin_us, LoadOf(*step)});
    runner_->Issue(std::move(step));
  }
}

void EngineThread::CommitStep() {
  const Result<StepResult> result = runner_->Wait();
  if (!result.ok()) {
    Fail(result.error());
    return;
  }
  scheduler_.Commit(result.value());
  times_.step_us += EngineNowUs() - in_flight_.front().begin_us;
  // What is not measured, by runners without a clock, limits nothing.
  if (result.value().times.forward_us > 0)
    step_costs_.Add(in_flight_.front().load, static_cast<double>(result.value().times.forward_us));
  times_.forward_us += result.value().times.forward_us;
  times_.attention_us += result.value().times.attention_us;
  in_flight_.pop_front();
}

// The device is lost: nothing is waited for, nothing is run any more.
void EngineThread::Fail(Error error) {
  if (error.code != ErrorCode::kUnavailable) error.code = ErrorCode::kInternal;
  failed_ = true;
  in_flight_.clear();
  scheduler_.FailAll(error);
  gate_.Fail(error);
  failure_notice_.Give(error);
}

// Who has seen an event finds its effects in Stats().
void EngineThread::PublishAndDeliver() {
  Publish();
  std::vector<RequestEvent> events = scheduler_.TakeEvents();
  if (events.empty()) return;
  const int64_t begin_us = EngineNowUs();
  for (RequestEvent& event : events) {
    const uint64_t id = event.request_id;
    const EventDelivery::Delivered delivered = delivery_.Deliver(std::move(event));
    if (delivered.left_queue) gate_.LeaveQueue(id, delivered.started);
    if (delivered.ended) gate_.End();
  }
  times_.deliver_us += EngineNowUs() - begin_us;
}

void EngineThread::Publish() {
  EngineStats stats = scheduler_.Stats();
  stats.step_us = times_.step_us;
  stats.forward_us = times_.forward_us;
  stats.attention_us = times_.attention_us;
  stats.deliver_us = times_.deliver_us;
  gate_.Publish(stats);
}

}  // namespace espalier
