#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine_stats.h"
#include "engine/start_rate.h"
#include "engine/tree_event.h"
#include "engine/waiting_list.h"
#include "kernels/base/mutex.h"
#include "kernels/base/result.h"

namespace espalier {

// What clients' threads and the engine's thread share: what the thread is to do next, places in the queue,
// and what there is to know of it. Thread-safe: one lock guards everything. No command runs under it.
class EngineGate {
 public:
  // That of a new request has the sink, which hears of it where the thread cannot.
  struct Command {
    std::function<void()> run;
    std::shared_ptr<TreeEventSink> sink = nullptr;
  };

  explicit EngineGate(int32_t max_queued_requests) : max_queued_requests_(max_queued_requests) {}

  // Clients' threads.

  // Whether one more request of the peer is taken.
  Status CheckRoom(const std::string& peer) const;
  // Gives a new request its id and a place in the queue. `submit` makes the command that takes it in;
  // `end` the one that ends another, which gives way to it.
  Result<uint64_t> Enter(const std::string& peer, const std::function<Command(uint64_t id)>& submit,
                         const std::function<Command(uint64_t id, Error reason)>& end);
  // False: the thread has ended, and the command will not run.
  bool Post(Command command);
  void Close();  // no new requests
  // No requests and no commands are taken any more: the thread ends.
  void Stop();
  // Whether all requests have ended; waits so long for it.
  bool WaitUntilEmpty(int64_t timeout_us);
  void WaitUntilEmpty();
  std::optional<Error> failure() const;
  EngineStats Stats() const;
  int64_t RetryAfterMs() const;

  // The engine's thread.

  // Commands that were posted since, in order. Waits for some where `idle`. False: stop; these are the last.
  bool Take(bool idle, std::vector<Command>* taken);
  void LeaveQueue(uint64_t id, bool started);
  void End();  // of one request
  // All but the time that the thread waited.
  void Publish(EngineStats stats);
  void Fail(const Error& error);
  // There is no memory to go on: takes nothing any more. Returns what was not taken. Allocates nothing.
  std::vector<Command> Abandon(const Error& error);
  void EndAll();  // of all requests; allocates nothing

 private:
  Error QueueFull() const ESPALIER_REQUIRES(mutex_);
  Status CheckRoomLocked(const std::string& peer) const ESPALIER_REQUIRES(mutex_);
  void ReserveCommands(size_t more) ESPALIER_REQUIRES(mutex_);

  const int32_t max_queued_requests_;
  mutable Mutex mutex_;
  CondVar wake_;                                               // commands, or stopping
  CondVar ended_;                                              // a request has ended
  std::vector<Command> commands_ ESPALIER_GUARDED_BY(mutex_);  // in order
  uint64_t next_id_ ESPALIER_GUARDED_BY(mutex_) = 1;
  int32_t active_ ESPALIER_GUARDED_BY(mutex_) = 0;   // requests without a last event
  WaitingList waiting_ ESPALIER_GUARDED_BY(mutex_);  // those of them that have not started
  StartRate start_rate_ ESPALIER_GUARDED_BY(mutex_);
  bool closed_ ESPALIER_GUARDED_BY(mutex_) = false;  // no new requests
  bool stopping_ ESPALIER_GUARDED_BY(mutex_) = false;
  bool thread_ended_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::optional<Error> failure_ ESPALIER_GUARDED_BY(mutex_);
  EngineStats published_ ESPALIER_GUARDED_BY(mutex_);
  int64_t idle_since_us_ ESPALIER_GUARDED_BY(mutex_) = 0;  // 0: not waiting
};

// Why requests end that the engine cannot go on with.
inline Error StoppingError() { return {ErrorCode::kUnavailable, "", "the server is stopping"}; }
inline Error FailedError() {
  return {ErrorCode::kUnavailable, "", "the device has failed: restart the server"};
}

}  // namespace espalier
