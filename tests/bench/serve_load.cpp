#include "tests/bench/serve_load.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <unordered_map>
#include <utility>

#include "espalier/v1/tree.grpc.pb.h"
#include "tests/bench/clock.h"
#include "tests/bench/serve_call.h"
#include "tests/bench/serve_prompts.h"

namespace espalier::bench {

namespace {

using Time = Clock::time_point;

constexpr size_t kToldFaults = 10;

Time After(Time begin, double seconds) {
  return begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// One call from its start to its status. Its address is the tag of every operation; one is under way at a
// time.
class Call {
 public:
  Call(Time due, double deadline_s) : due_(due) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::microseconds(static_cast<int64_t>(deadline_s * 1e6)));
  }
  virtual ~Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  virtual void Start(v1::TreeService::Stub* stub, grpc::CompletionQueue* queue) = 0;
  // The operation under way is over. True: so is the call.
  virtual bool Advance(bool ok) = 0;
  // Adds what came of it.
  virtual void Count(LoadOutcome* outcome) = 0;

 protected:
  void CountEnd(const std::string& fault, const v1::Usage& usage, LoadOutcome* outcome) const {
    if (!status_.ok()) {
      ++outcome->errors[NameOf(status_.error_code())];
      return;
    }
    ++outcome->requests_done;
    outcome->generated_tokens += usage.generated_tokens();
    outcome->prompt_tokens += usage.prompt_tokens();
    outcome->cached_tokens += usage.cached_tokens();
    if (!fault.empty()) {
      ++outcome->fault_count;
      if (outcome->faults.size() < kToldFaults) outcome->faults.push_back(fault);
      return;
    }
    ++outcome->requests_ok;
    outcome->total_us.push_back(MicrosecondsBetween(due_, Clock::now()));
  }

  grpc::ClientContext context_;
  grpc::Status status_;
  const Time due_;
};

class GenerateCall final : public Call {
 public:
  GenerateCall(v1::GenerateRequest request, Time due, double deadline_s)
      : Call(due, deadline_s), request_(std::move(request)), check_(&request_) {}

  void Start(v1::TreeService::Stub* stub, grpc::CompletionQueue* queue) override {
    reader_ = stub->PrepareAsyncGenerate(&context_, request_, queue);
    reader_->StartCall(this);
  }

  bool Advance(bool ok) override {
    switch (stage_) {
      case Stage::kStarting:
        stage_ = Stage::kReading;
        if (ok) {
          reader_->Read(&event_, this);
        } else {
          Finish();
        }
        return false;
      case Stage::kReading:
        if (ok) {
          const bool generated = check_.Take(std::exchange(event_, {}));
          if (generated && first_token_ == Time()) first_token_ = Clock::now();
          reader_->Read(&event_, this);
        } else {
          Finish();
        }
        return false;
      case Stage::kFinishing:
        return true;
    }
    return true;
  }

  void Count(LoadOutcome* outcome) override {
    const Time end = Clock::now();
    const std::string fault = status_.ok() ? check_.Fault() : "";
    const Answer& answer = check_.answer();
    CountEnd(fault, answer.usage, outcome);
    if (!status_.ok() || !fault.empty()) return;
    outcome->output_tokens += answer.output_tokens;
    outcome->first_token_us.push_back(MicrosecondsBetween(due_, first_token_));
    outcome->server_first_token_us.push_back(static_cast<double>(answer.usage.first_token_us()));
    if (answer.longest_path_tokens < 2) return;
    outcome->per_output_token_us.push_back(MicrosecondsBetween(first_token_, end) /
                                           static_cast<double>(answer.longest_path_tokens - 1));
  }

 private:
  enum class Stage : uint8_t { kStarting, kReading, kFinishing };

  void Finish() {
    stage_ = Stage::kFinishing;
    reader_->Finish(&status_, this);
  }

  const v1::GenerateRequest request_;
  StreamCheck check_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse event_;
  Stage stage_ = Stage::kStarting;
  Time first_token_;
};

class ScoreCall final : public Call {
 public:
  ScoreCall(v1::ScoreRequest request, Time due, double deadline_s)
      : Call(due, deadline_s), request_(std::move(request)) {}

  void Start(v1::TreeService::Stub* stub, grpc::CompletionQueue* queue) override {
    reader_ = stub->PrepareAsyncScore(&context_, request_, queue);
    reader_->StartCall();
    reader_->Finish(&response_, &status_, this);
  }
  bool Advance(bool /*ok*/) override { return true; }
  void Count(LoadOutcome* outcome) override {
    CountEnd(status_.ok() ? ScoreFault(request_, response_) : "", response_.usage(), outcome);
  }

 private:
  const v1::ScoreRequest request_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::ScoreResponse>> reader_;
  v1::ScoreResponse response_;
};

class Load {
 public:
  Load(const LoadPlan& plan, const WorkloadSource& source,
       const std::vector<std::shared_ptr<grpc::Channel>>& channels)
      : plan_(plan), source_(source), random_(plan.seed) {
    for (const auto& channel : channels) stubs_.push_back(v1::TreeService::NewStub(channel));
  }

  LoadOutcome Run() {
    begin_ = Clock::now();
    next_arrival_ = begin_;
    while (true) {
      StartDue();
      if (under_way_ == 0 && sending_ended_ && waiting_.empty()) break;
      Wait();
    }
    outcome_.duration_s = MicrosecondsBetween(begin_, Clock::now()) * 1e-6;
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
    return std::move(outcome_);
  }

 private:
  bool open_loop() const { return plan_.rate > 0.0; }
  bool HasRoom() const { return !plan_.clients || under_way_ < *plan_.clients; }

  // Starts all that is due now.
  void StartDue() {
    const Time now = Clock::now();
    const bool time_is_up = plan_.duration_s > 0.0 && now >= After(begin_, plan_.duration_s);
    if (time_is_up) sending_ended_ = true;
    if (open_loop()) {
      while (!sending_ended_ && next_arrival_ <= now) {
        NoteArrival(next_arrival_);
        const double unit = (static_cast<double>(random_() >> 11) + 0.5) * 0x1.0p-53;
        next_arrival_ = After(next_arrival_, -std::log(unit) / plan_.rate);
      }
      for (; !waiting_.empty() && HasRoom(); waiting_.pop_front()) StartCall(waiting_.front());
    } else {
      while (!sending_ended_ && HasRoom()) {
        NoteArrival(now);
        StartCall(waiting_.front());
        waiting_.pop_front();
      }
    }
  }

  void NoteArrival(Time due) {
    waiting_.push_back(due);
    ++arrivals_;
    if (plan_.requests && arrivals_ >= *plan_.requests) sending_ended_ = true;
  }

  void StartCall(Time due) {
    outcome_.most_late_us = std::max(outcome_.most_late_us, MicrosecondsBetween(due, Clock::now()));
    const int32_t number = outcome_.requests_sent++;
    LoadRequest request = source_.Make(plan_.workload, plan_.seed, static_cast<uint64_t>(number));
    std::unique_ptr<Call> call;
    if (auto* generate = std::get_if<v1::GenerateRequest>(&request)) {
      call = std::make_unique<GenerateCall>(std::move(*generate), due, plan_.deadline_s);
    } else {
      call =
          std::make_unique<ScoreCall>(std::move(std::get<v1::ScoreRequest>(request)), due, plan_.deadline_s);
    }
    ++under_way_;
    Call* started = call.get();
    calls_.emplace(started, std::move(call));
    started->Start(stubs_[static_cast<size_t>(number) % stubs_.size()].get(), &queue_);
  }

  // For the next event of a call, or the next arrival.
  void Wait() {
    void* tag = nullptr;
    bool ok = false;
    const bool arrivals_to_come = open_loop() && !sending_ended_;
    if (!arrivals_to_come) {
      queue_.Next(&tag, &ok);
    } else {
      const auto wait = std::max(next_arrival_ - Clock::now(), Clock::duration::zero());
      const auto until = std::chrono::system_clock::now() + wait;
      if (queue_.AsyncNext(&tag, &ok, until) != grpc::CompletionQueue::GOT_EVENT) return;
    }
    Call* call = static_cast<Call*>(tag);
    if (!call->Advance(ok)) return;
    call->Count(&outcome_);
    calls_.erase(call);
    --under_way_;
  }

  const LoadPlan& plan_;
  const WorkloadSource& source_;
  Random random_;  // of arrivals
  std::vector<std::unique_ptr<v1::TreeService::Stub>> stubs_;
  grpc::CompletionQueue queue_;
  std::unordered_map<Call*, std::unique_ptr<Call>> calls_;
  std::deque<Time> waiting_;  // arrivals that are due and not sent
  Time begin_;
  Time next_arrival_;
  int32_t arrivals_ = 0;
  int32_t under_way_ = 0;
  bool sending_ended_ = false;
  LoadOutcome outcome_;
};

}  // namespace

LoadOutcome RunLoad(const LoadPlan& plan, const WorkloadSource& source,
                    const std::vector<std::shared_ptr<grpc::Channel>>& channels) {
  return Load(plan, source, channels).Run();
}

}  // namespace espalier::bench
