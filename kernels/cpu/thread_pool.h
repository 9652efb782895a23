#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/base/result.h"

namespace espalier::cpu {

// How many cores this process may use.
int32_t AvailableCores();

// Threads that share loops. ParallelFor is called by one thread at a time, never from within a loop.
class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started. Error: the system refuses a thread.
  static Result<std::unique_ptr<ThreadPool>> Create(int32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t threads() const { return threads_; }

  // Calls body(i, thread) for every i in [0, count) and returns when all calls have returned. Indices are
  // handed out in ascending runs of `grain`, to the thread that is free; thread is in [0, threads()), the
  // caller's being 0. A worker that sleeps or was preempted does not hold the others up unless it holds
  // indices.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, const Body& body) {
    if (threads_ == 1 || count <= grain) {
      for (int64_t i = 0; i < count; ++i) body(i, int32_t{0});
      return;
    }
    const auto call = [](const void* context, int64_t begin, int64_t end, int32_t thread) {
      for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i, thread);
    };
    Run(count, grain, call, &body);
  }

 private:
  using Call = void (*)(const void* context, int64_t begin, int64_t end, int32_t thread);

  explicit ThreadPool(int32_t threads) : threads_(threads) {}
  void Run(int64_t count, int64_t grain, Call call, const void* context);
  void Work(uint32_t epoch, int32_t thread);
  void Worker(int32_t thread);

  int32_t threads_;
  std::vector<std::thread> workers_;

  // A loop is published under a new epoch. `next_` holds the epoch in its upper half and the next run of
  // indices in its lower half; the thread that advances it owns that run. It is closed before the loop's
  // description changes, so a worker that reads a newer description cannot move an older loop on: it finds
  // another epoch and waits.
  alignas(64) std::atomic<uint64_t> next_{0};
  alignas(64) std::atomic<uint32_t> runs_done_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> runs_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<int64_t> grain_{1};
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> context_{nullptr};
};

}  // namespace espalier::cpu
