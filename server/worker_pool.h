#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/mutex.h"

namespace espalier {

// Threads for what a call costs before the engine has it (inflating, parsing, encoding texts), so that gRPC's
// own stay free for the messages of others. Peers take turns; one that waits alone has all threads but
// one, so that a new peer does not wait for the work of others. What waits is bounded in bytes: a peer may
// hold as many as are still free, so that one alone fills half of the room and there is some for the next.
class WorkerPool {
 public:
  class Job {
   public:
    virtual void Run() = 0;

   protected:
    ~Job() = default;
  };

  // At least two threads.
  WorkerPool(int threads, int64_t max_bytes);
  // Nothing waits any more: every call has ended.
  ~WorkerPool();

  // Schedules Run() on a thread of the pool. `job` lives until then, or until Remove, and costs `bytes`
  // while it waits. False: there is no room. Thread-safe, as all of these. Throws std::bad_alloc, and then
  // has not taken it.
  bool Add(const std::string& peer, int64_t bytes, Job* job);
  // Takes back what has not begun. False: it has, or was never added.
  bool Remove(const Job* job);

  // About when what waits now will have been worked off.
  int64_t RetryAfterMs() const;

 private:
  struct Waiting {
    Job* job = nullptr;
    int64_t bytes = 0;
  };
  struct Peer {
    std::deque<Waiting> waiting;
    int64_t bytes = 0;  // of these
    int running = 0;

    bool idle() const { return waiting.empty() && running == 0; }
  };
  using Peers = std::map<std::string, Peer>;

  void Run();
  void Stop();
  Peers::iterator FindRoom(const std::string& peer, int64_t bytes) ESPALIER_REQUIRES(mutex_);
  void Count(Peers::iterator peer, int64_t bytes) ESPALIER_REQUIRES(mutex_);
  Peers::iterator Next() ESPALIER_REQUIRES(mutex_);
  Waiting Take(Peers::iterator peer) ESPALIER_REQUIRES(mutex_);

  const int64_t max_bytes_;

  mutable Mutex mutex_;
  CondVar changed_;
  Peers peers_ ESPALIER_GUARDED_BY(mutex_);                       // those that are not idle
  std::list<Peers::iterator> turns_ ESPALIER_GUARDED_BY(mutex_);  // those with anything waiting, next first
  int64_t bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;                 // of all peers
  int64_t waiting_jobs_ ESPALIER_GUARDED_BY(mutex_) = 0;
  int idle_threads_ ESPALIER_GUARDED_BY(mutex_) = 0;
  double job_us_ ESPALIER_GUARDED_BY(mutex_) = 10'000.0;  // what one takes, of late
  bool stopping_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::vector<std::jthread> threads_;  // last: they run when everything else is there
};

}  // namespace espalier
