#include "engine/engine_gate.h"

#include <chrono>
#include <utility>

#include "engine/engine_clock.h"

namespace espalier {

namespace {

Error ExhaustedError() {
  return {ErrorCode::kUnavailable, "", "the engine has run out of memory: restart the server"};
}

}  // namespace

Status EngineGate::CheckRoom(const std::string& peer) const {
  const MutexLock lock(mutex_);
  return CheckRoomLocked(peer);
}

Status EngineGate::CheckRoomLocked(const std::string& peer) const {
  if (failure_) return failure_->code == ErrorCode::kResourceExhausted ? ExhaustedError() : FailedError();
  if (closed_) return StoppingError();
  if (waiting_.size() < max_queued_requests_ || waiting_.WhoGivesWayTo(peer)) return {};
  return QueueFull();
}

Error EngineGate::QueueFull() const {
  return {ErrorCode::kResourceExhausted, "",
          "the request queue is full (" + std::to_string(waiting_.size()) + " wait): try again in about " +
              std::to_string(start_rate_.NextMs(EngineNowUs())) + " ms"};
}

void EngineGate::ReserveCommands(size_t more) {
  if (commands_.capacity() - commands_.size() < more) commands_.reserve(2 * commands_.size() + more);
}

Result<uint64_t> EngineGate::Enter(const std::string& peer, const std::function<Command(uint64_t id)>& submit,
                                   const std::function<Command(uint64_t id, Error reason)>& end) {
  uint64_t id = 0;
  {
    const MutexLock lock(mutex_);
    if (const Status taken = CheckRoomLocked(peer); !taken.ok()) return taken.error();
    // What needs memory comes first: where there is none, nothing has changed.
    ReserveCommands(2);
    std::optional<uint64_t> gives_way;
    if (waiting_.size() >= max_queued_requests_) gives_way = waiting_.WhoGivesWayTo(peer);
    std::optional<Command> room;
    if (gives_way) room = end(*gives_way, QueueFull());
    id = next_id_;
    Command command = submit(id);
    waiting_.Add(id, peer);
    if (gives_way) waiting_.Remove(*gives_way);
    if (room) commands_.push_back(*std::move(room));
    commands_.push_back(std::move(command));
    ++next_id_;
    ++active_;
  }
  wake_.NotifyOne();
  return id;
}

bool EngineGate::Post(Command command) {
  {
    const MutexLock lock(mutex_);
    if (thread_ended_) return false;
    commands_.push_back(std::move(command));
  }
  wake_.NotifyOne();
  return true;
}

void EngineGate::Close() {
  const MutexLock lock(mutex_);
  closed_ = true;
}

void EngineGate::Stop() {
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    stopping_ = true;
  }
  wake_.NotifyOne();
}

bool EngineGate::WaitUntilEmpty(int64_t timeout_us) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(timeout_us);
  const MutexLock lock(mutex_);
  while (active_ > 0) {
    if (!ended_.WaitUntil(mutex_, end)) return active_ == 0;
  }
  return true;
}

void EngineGate::WaitUntilEmpty() {
  const MutexLock lock(mutex_);
  while (active_ > 0) ended_.Wait(mutex_);
}

std::optional<Error> EngineGate::failure() const {
  const MutexLock lock(mutex_);
  return failure_;
}

EngineStats EngineGate::Stats() const {
  const MutexLock lock(mutex_);
  EngineStats stats = published_;
  if (idle_since_us_ != 0) stats.idle_us += EngineNowUs() - idle_since_us_;
  return stats;
}

int64_t EngineGate::RetryAfterMs() const {
  const MutexLock lock(mutex_);
  return start_rate_.NextMs(EngineNowUs());
}

bool EngineGate::Take(bool idle, std::vector<Command>* taken) {
  const MutexLock lock(mutex_);
  if (idle) {
    idle_since_us_ = EngineNowUs();
    while (!stopping_ && commands_.empty()) wake_.Wait(mutex_);
    published_.idle_us += EngineNowUs() - std::exchange(idle_since_us_, 0);
  }
  taken->swap(commands_);
  thread_ended_ = stopping_;
  return !stopping_;
}

void EngineGate::LeaveQueue(uint64_t id, bool started) {
  const MutexLock lock(mutex_);
  waiting_.Remove(id);
  if (started) start_rate_.Started(EngineNowUs(), waiting_.size() > 0);
}

void EngineGate::End() {
  const MutexLock lock(mutex_);
  --active_;
  ended_.NotifyAll();
}

void EngineGate::Publish(EngineStats stats) {
  const MutexLock lock(mutex_);
  stats.idle_us = published_.idle_us;
  published_ = stats;
}

void EngineGate::Fail(const Error& error) {
  const MutexLock lock(mutex_);
  closed_ = true;
  failure_ = error;
}

std::vector<EngineGate::Command> EngineGate::Abandon(const Error& error) {
  const MutexLock lock(mutex_);
  closed_ = true;
  thread_ended_ = true;
  failure_ = error;
  return std::exchange(commands_, {});
}

void EngineGate::EndAll() {
  const MutexLock lock(mutex_);
  active_ = 0;
  published_.requests_active = 0;
  published_.requests_queued = 0;
  ended_.NotifyAll();
}

}  // namespace espalier
