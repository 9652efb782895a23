#pragma once

#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/base/mutex.h"

namespace espalier {

// Threads that encode and write the engine's events, so that its own thread does neither.
class WriterPool {
 public:
  // Something with a message to write. Lives until its turn has come.
  class Sender {
   public:
    virtual ~Sender() = default;
    virtual void Send() = 0;
  };

  WriterPool();
  // A sender that is still queued is not called any more.
  ~WriterPool();

  // Schedules Send() on another thread. Thread-safe.
  void Enqueue(std::shared_ptr<Sender> sender);

 private:
  void Run();
  void Stop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<Sender>> queued_ ESPALIER_GUARDED_BY(mutex_);
  bool stopping_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::vector<std::jthread> threads_;  // last: they run when everything else is there
};

}  // namespace espalier
