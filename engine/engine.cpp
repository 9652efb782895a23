#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "engine/scheduler.h"
#include "engine/waiting_list.h"
#include "kernels/base/exhaustion.h"

namespace espalier {

namespace {

// The only clock of the engine.
int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Error StoppingError() { return {ErrorCode::kUnavailable, "", "the server is stopping"}; }
Error FailedError() { return {ErrorCode::kUnavailable, "", "the device has failed: restart the server"}; }
Error ExhaustedError() {
  return {ErrorCode::kUnavailable, "", "the engine has run out of memory: restart the server"};
}

// The recent rate at which waiting requests are started.
class StartRate {
 public:
  // `more_wait`: the next start is awaited from now on.
  void Started(int64_t now_us, bool more_wait) {
    if (awaited_) interval_us_ += (static_cast<double>(now_us - last_us_) - interval_us_) / 8;
    last_us_ = now_us;
    awaited_ = more_wait;
  }
  int64_t NextMs(int64_t now_us) const {
    const double since_us = awaited_ ? static_cast<double>(now_us - last_us_) : 0.0;
    return std::clamp(static_cast<int64_t>(std::max(interval_us_, since_us) / 1000), kLeastMs, kMostMs);
  }

 private:
  static constexpr int64_t kLeastMs = 10;
  static constexpr int64_t kMostMs = 30'000;

  double interval_us_ = 100'000.0;  // until some have been seen
  int64_t last_us_ = 0;
  bool awaited_ = false;
};

// The thread, and the queue to it. Members of the last group belong to the thread alone.
class EngineThread final : public Engine {
 public:
  EngineThread(const EngineOptions& options, std::unique_ptr<ModelRunner> runner,
               std::shared_ptr<const Tokenizer> tokenizer)
      : options_(options),
        has_tokenizer_(tokenizer != nullptr),
        limits_(LimitsOf(options, runner->info())),
        runner_(std::move(runner)),
        scheduler_(SchedulerOptionsOf(options, runner_->info()), std::move(tokenizer)),
        published_(scheduler_.Stats()),
        thread_([this] { Run(); }) {}

  ~EngineThread() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  const ModelInfo& model() const override { return runner_->info(); }
  const EngineLimits& limits() const override { return limits_; }

  Result<uint64_t> Submit(TreeRequest request, std::shared_ptr<TreeEventSink> sink) override;
  void Cancel(uint64_t request_id) override;
  EngineStats Stats() const override;
  TreeSnapshot Snapshot() const override;
  int32_t FlushCache() override;
  void Drain(int64_t timeout_us) override;
  void OnFailure(std::function<void(const Error&)> handler) override;
  int64_t RetryAfterMs() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return start_rate_.NextMs(NowUs());
  }

 private:
  struct Client {
    std::shared_ptr<TreeEventSink> sink;
    std::string peer;
    std::vector<bool> generates;  // [nodes]
    int64_t submit_us = 0;
    int64_t first_token_us = 0;
    bool started = false;
  };
  // What the thread does next. That of Submit has the sink, which hears of it where the thread cannot.
  struct Command {
    std::function<void()> run;
    std::shared_ptr<TreeEventSink> sink = nullptr;
  };

  static EngineLimits LimitsOf(const EngineOptions& options, const ModelInfo& info) {
    return {.max_branches = options.max_branches,
            .max_path_tokens = info.max_positions,
            .vocab_size = info.vocab_size,
            .block_tokens = options.block_tokens,
            .total_blocks = options.total_blocks,
            .max_answer_bytes = options.max_answer_bytes};
  }
  static SchedulerOptions SchedulerOptionsOf(const EngineOptions& options, const ModelInfo& info) {
    SchedulerOptions scheduler;
    scheduler.engine = options;
    scheduler.attention = info.attention;
    scheduler.plan = info.backend.plan;
    scheduler.steps_in_flight = std::min(info.backend.steps_in_flight, 2);
    scheduler.max_path_tokens = info.max_positions;
    scheduler.eos_token_ids = info.eos_token_ids;
    scheduler.now_us = NowUs;
    return scheduler;
  }

  Status CheckRoom(const std::string& peer) const;
  Error QueueFullError() const;
  Command MakeRoom(uint64_t id);
  void ReserveCommands(size_t more);

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
  void Deliver(RequestEvent event);
  void ReleaseRead();

  const EngineOptions options_;
  const bool has_tokenizer_;
  const EngineLimits limits_;

  mutable std::mutex mutex_;
  mutable std::condition_variable wake_;   // commands, or stopping
  std::condition_variable ended_;          // a request has ended
  mutable std::vector<Command> commands_;  // in order
  uint64_t next_id_ = 1;
  int32_t active_ = 0;   // requests without a last event
  WaitingList waiting_;  // those of them that have not started
  StartRate start_rate_;
  bool closed_ = false;  // no new requests
  bool stopping_ = false;
  bool thread_ended_ = false;
  std::optional<Error> failure_;
  std::mutex handler_mutex_;  // never taken under mutex_
  std::function<void(const Error&)> on_failure_;

  std::unique_ptr<ModelRunner> runner_;
  Scheduler scheduler_;
  EngineStats stats_;  // times
  std::unordered_map<uint64_t, Client> clients_;
  // Ended requests whose clients have yet to take some of the answer, and how many each peer has.
  std::vector<std::pair<std::string, std::weak_ptr<TreeEventSink>>> unread_;
  std::map<std::string, int32_t> unread_of_;
  std::deque<int64_t> step_begin_us_;  // of steps in flight
  std::vector<Command> taken_;         // being run, last first
  bool failed_ = false;

  EngineStats published_;      // under mutex_
  int64_t idle_since_us_ = 0;  // under mutex_; 0: not waiting
  std::thread thread_;         // last: runs when everything else is there
};

Status CheckStopStrings(const TreeRequest& request) {
  for (size_t i = 0; i < request.nodes.size(); ++i) {
    const auto* generate = std::get_if<GenerateSpec>(&request.nodes[i].content);
    if (generate != nullptr && !generate->stop_strings.empty())
      return InvalidArgument("nodes[" + std::to_string(i) + "].generate.stop_strings",
                             "this model has no tokenizer: use stop_token_ids");
  }
  return {};
}

// Whether one more request of the peer is taken. Under the lock.
Status EngineThread::CheckRoom(const std::string& peer) const {
  if (failure_) return failure_->code == ErrorCode::kResourceExhausted ? ExhaustedError() : FailedError();
  if (closed_) return StoppingError();
  if (waiting_.size() < options_.max_queued_requests || waiting_.WhoGivesWayTo(peer)) return {};
  return QueueFullError();
}

Error EngineThread::QueueFullError() const {
  return {ErrorCode::kResourceExhausted, "",
          "the request queue is full (" + std::to_string(waiting_.size()) + " wait): try again in about " +
              std::to_string(start_rate_.NextMs(NowUs())) + " ms"};
}

// What ends a request that gives way to another. One that has been started by then goes on.
EngineThread::Command EngineThread::MakeRoom(uint64_t id) {
  return {[this, id, reason = QueueFullError()] {
    const auto client = clients_.find(id);
    if (client != clients_.end() && !client->second.started) scheduler_.Abort(id, reason);
  }};
}

void EngineThread::ReserveCommands(size_t more) {
  if (commands_.capacity() - commands_.size() < more) commands_.reserve(2 * commands_.size() + more);
}

Result<uint64_t> EngineThread::Submit(TreeRequest request, std::shared_ptr<TreeEventSink> sink) {
  const Status valid = ValidateTreeRequest(request, limits_);
  if (!valid.ok()) return valid.error();
  if (!has_tokenizer_) {
    const Status without_text = CheckStopStrings(request);
    if (!without_text.ok()) return without_text.error();
  }
  Client client{.sink = std::move(sink), .peer = request.peer, .generates = {}, .submit_us = NowUs()};
  for (const TreeNodeSpec& node : request.nodes)
    client.generates.push_back(std::holds_alternative<GenerateSpec>(node.content));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const Status taken = CheckRoom(client.peer); !taken.ok()) return taken.error();
  }
  const std::shared_ptr<ScheduledRequest> prepared = scheduler_.Prepare(std::move(request));

  uint64_t id = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const Status taken = CheckRoom(client.peer); !taken.ok()) return taken.error();
    // What needs memory comes first: where there is none, nothing has changed.
    ReserveCommands(2);
    std::optional<uint64_t> gives_way;
    if (waiting_.size() >= options_.max_queued_requests) gives_way = waiting_.WhoGivesWayTo(client.peer);
    std::optional<Command> room;
    if (gives_way) room = MakeRoom(*gives_way);
    id = next_id_;
    Command submit{[this, id, client, prepared] {
                     clients_.emplace(id, client);
                     taken_.back().sink.reset();  // it hears as a client from here on
                     scheduler_.Submit(id, prepared);
                   },
                   client.sink};
    waiting_.Add(id, client.peer);
    if (gives_way) waiting_.Remove(*gives_way);
    if (room) commands_.push_back(*std::move(room));
    commands_.push_back(std::move(submit));
    ++next_id_;
    ++active_;
  }
  wake_.notify_one();
  return id;
}

void EngineThread::Cancel(uint64_t request_id) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (thread_ended_) return;
    commands_.push_back({[this, request_id] { scheduler_.Cancel(request_id); }});
  }
  wake_.notify_one();
}

EngineStats EngineThread::Stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  EngineStats stats = published_;
  if (idle_since_us_ != 0) stats.idle_us += NowUs() - idle_since_us_;
  return stats;
}

bool EngineThread::RunBetweenSteps(const std::function<void()>& action) const {
  auto done = std::make_shared<std::promise<bool>>();
  std::future<bool> future = done->get_future();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (thread_ended_) return false;
    commands_.push_back({[&action, done] {
      action();
      done->set_value(true);
    }});
  }
  done.reset();  // a command that is dropped breaks its promise
  wake_.notify_one();
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
  std::unique_lock<std::mutex> lock(mutex_);
  closed_ = true;
  const auto all_ended = [this] { return active_ == 0; };
  if (ended_.wait_for(lock, std::chrono::microseconds(timeout_us), all_ended)) return;
  commands_.push_back({[this] {
    std::vector<uint64_t> ids;
    for (const auto& [id, client] : clients_) ids.push_back(id);
    for (const uint64_t id : ids) scheduler_.Abort(id, StoppingError());
  }});
  wake_.notify_one();
  ended_.wait(lock, all_ended);
}

void EngineThread::OnFailure(std::function<void(const Error&)> handler) {
  const std::lock_guard<std::mutex> one_at_a_time(handler_mutex_);
  std::optional<Error> failure;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    failure = failure_;
  }
  if (!failure) {
    on_failure_ = std::move(handler);
    return;
  }
  on_failure_ = nullptr;
  if (handler) handler(*failure);
}

// The thread.

void EngineThread::Run() {
  try {
    RunSteps();
  } catch (const std::bad_alloc&) {
    Abandon(OutOfMemory());
  }
}

// There was no memory for the scheduler's own state, which may be half changed: it is not touched any more.
// Every request ends, and the thread; nothing here asks for memory, but for the handler. Sinks pass over what
// comes after their last event.
void EngineThread::Abandon(const Error& error) {
  std::vector<Command> commands;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    thread_ended_ = true;
    failure_ = error;
    commands.swap(commands_);
  }
  for (const auto& [id, client] : clients_) client.sink->OnEvent(error);
  for (const std::vector<Command>* unheard : {&taken_, &commands}) {
    for (const Command& command : *unheard) {
      if (command.sink != nullptr) command.sink->OnEvent(error);
    }
  }
  clients_.clear();
  taken_.clear();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    active_ = 0;
    published_.requests_active = 0;
    published_.requests_queued = 0;
  }
  ended_.notify_all();
  const std::lock_guard<std::mutex> one_at_a_time(handler_mutex_);
  try {
    if (const auto handler = std::exchange(on_failure_, nullptr)) handler(error);
  } catch (const std::bad_alloc&) {  // new requests are refused all the same
  }
}

void EngineThread::RunSteps() {
  while (TakeCommands()) {
    if (!failed_) IssueSteps();
    PublishAndDeliver();
    if (!step_begin_us_.empty()) {
      CommitStep();
      PublishAndDeliver();
    } else if (!scheduler_.idle() && !scheduler_.growing()) {
      Fail(InternalError("the scheduler has work and does not plan it"));
      PublishAndDeliver();
    }
  }
  while (!step_begin_us_.empty()) CommitStep();  // the runner is not left with steps nobody waits for
  scheduler_.FailAll(StoppingError());
  PublishAndDeliver();
}

// Waits for something to do. False: stop.
bool EngineThread::TakeCommands() {
  bool stop = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool busy = !scheduler_.idle() || !step_begin_us_.empty();
    if (!busy) {
      idle_since_us_ = NowUs();
      wake_.wait(lock, [this] { return stopping_ || !commands_.empty(); });
      published_.idle_us += NowUs() - std::exchange(idle_since_us_, 0);
    }
    taken_.swap(commands_);
    stop = stopping_;
    thread_ended_ = stop;  // commands taken here are the last ones
  }
  std::reverse(taken_.begin(), taken_.end());
  while (!taken_.empty()) {
    taken_.back().run();
    taken_.pop_back();
  }
  ReleaseRead();
  if (failed_ && !scheduler_.idle()) scheduler_.FailAll(FailedError());
  return !stop;
}

void EngineThread::IssueSteps() {
  while (true) {
    const int64_t begin_us = NowUs();
    std::shared_ptr<const StepInput> step = scheduler_.Next();
    if (step == nullptr) return;
    step_begin_us_.push_back(begin_us);
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
  stats_.step_us += NowUs() - step_begin_us_.front();
  stats_.forward_us += result.value().times.forward_us;
  stats_.attention_us += result.value().times.attention_us;
  step_begin_us_.pop_front();
}

// The device is lost: nothing is waited for, nothing is run any more.
void EngineThread::Fail(Error error) {
  if (error.code != ErrorCode::kUnavailable) error.code = ErrorCode::kInternal;
  failed_ = true;
  step_begin_us_.clear();
  scheduler_.FailAll(error);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    failure_ = error;
  }
  const std::lock_guard<std::mutex> one_at_a_time(handler_mutex_);
  if (const auto handler = std::exchange(on_failure_, nullptr)) handler(error);
}

// Who has seen an event finds its effects in Stats().
void EngineThread::PublishAndDeliver() {
  Publish();
  std::vector<RequestEvent> events = scheduler_.TakeEvents();
  if (events.empty()) return;
  const int64_t begin_us = NowUs();
  for (RequestEvent& event : events) Deliver(std::move(event));
  stats_.deliver_us += NowUs() - begin_us;
}

void EngineThread::Publish() {
  EngineStats stats = scheduler_.Stats();
  stats.step_us = stats_.step_us;
  stats.forward_us = stats_.forward_us;
  stats.attention_us = stats_.attention_us;
  stats.deliver_us = stats_.deliver_us;
  const std::lock_guard<std::mutex> lock(mutex_);
  stats.idle_us = published_.idle_us;
  published_ = stats;
}

void EngineThread::Deliver(RequestEvent event) {
  const auto it = clients_.find(event.request_id);
  ESPALIER_CHECK(it != clients_.end());
  Client& client = it->second;
  const int64_t since_submit_us = NowUs() - client.submit_us;
  const bool starts = std::holds_alternative<TreeStarted>(event.event);
  const bool ends =
      std::holds_alternative<TreeFinished>(event.event) || std::holds_alternative<Error>(event.event);
  if (const auto* delta = std::get_if<TreeDelta>(&event.event);
      delta != nullptr && client.first_token_us == 0) {
    for (const BranchDelta& branch : delta->branches) {
      if (client.generates[static_cast<size_t>(branch.node)]) client.first_token_us = since_submit_us;
    }
  }
  if (auto* finished = std::get_if<TreeFinished>(&event.event)) {
    finished->usage.first_token_us = client.first_token_us;
    finished->usage.total_us = since_submit_us;
  }
  client.sink->OnEvent(std::move(event.event));
  if (!starts && !ends) return;
  const bool was_waiting = !client.started;
  client.started = true;
  if (ends && client.sink->HasUnread()) {
    scheduler_.SetUnread(client.peer, ++unread_of_[client.peer]);
    unread_.emplace_back(client.peer, client.sink);
  }
  if (ends) clients_.erase(it);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (was_waiting) waiting_.Remove(event.request_id);
  if (was_waiting && starts) start_rate_.Started(NowUs(), waiting_.size() > 0);
  if (ends) --active_;
  if (ends) ended_.notify_all();
}

// Lets go of the answers that have been taken since.
void EngineThread::ReleaseRead() {
  std::erase_if(unread_, [this](const auto& entry) {
    if (const auto sink = entry.second.lock(); sink && sink->HasUnread()) return false;
    const auto of = unread_of_.find(entry.first);
    scheduler_.SetUnread(entry.first, --of->second);
    if (of->second == 0) unread_of_.erase(of);
    return true;
  });
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                               std::unique_ptr<ModelRunner> runner,
                                               std::shared_ptr<const Tokenizer> tokenizer) {
  const ModelInfo& info = runner->info();
  const auto require_positive = [](int32_t value, const char* field) -> Status {
    if (value > 0) return {};
    return InvalidArgument(field, "must be at least 1");
  };
  for (const Status& status : {require_positive(options.block_tokens, "block_tokens"),
                               require_positive(options.total_blocks, "total_blocks"),
                               require_positive(options.max_branches, "max_branches"),
                               require_positive(options.max_batch_rows, "max_batch_rows"),
                               require_positive(options.prefill_chunk_tokens, "prefill_chunk_tokens"),
                               require_positive(options.max_queued_requests, "max_queued_requests")}) {
    if (!status.ok()) return status.error();
  }
  if (kSegmentTokens % options.block_tokens != 0)
    return InvalidArgument("block_tokens", "must divide " + std::to_string(kSegmentTokens));
  if (options.block_tokens != info.block_tokens || options.total_blocks > info.kv_blocks)
    return InvalidArgument("total_blocks", "the model was loaded with " + std::to_string(info.kv_blocks) +
                                               " blocks of " + std::to_string(info.block_tokens) + " tokens");
  if (info.backend.steps_in_flight < 1)
    return InternalError("a backend must allow at least one step in flight");
  return OrExhausted("kv_cache_bytes", "starting the engine", [&]() -> Result<std::unique_ptr<Engine>> {
    return std::unique_ptr<Engine>(
        std::make_unique<EngineThread>(options, std::move(runner), std::move(tokenizer)));
  });
}

}  // namespace espalier
