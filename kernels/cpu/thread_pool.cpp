#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <string>
#include <system_error>

namespace espalier::cpu {

namespace {

constexpr int kSpins = 2000;  // some 30 us: longer than the gaps between the operations of a step
constexpr uint64_t kClosed = 0xffffffffU;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` is no longer `old`: awake for a while, then asleep.
void WaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

int32_t AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const unsigned cores = std::thread::hardware_concurrency();
  return cores == 0 ? 1 : static_cast<int32_t>(cores);
}

Result<std::unique_ptr<ThreadPool>> ThreadPool::Create(int32_t threads) {
  ESPALIER_CHECK(threads >= 1);
  std::unique_ptr<ThreadPool> pool(new ThreadPool(threads));
  try {
    for (int32_t thread = 1; thread < threads; ++thread) {
      pool->workers_.emplace_back([p = pool.get(), thread] { p->Worker(thread); });
    }
  } catch (const std::system_error& error) {
    return Error{ErrorCode::kResourceExhausted, "threads",
                 "cannot start " + std::to_string(threads) + " threads: " + error.what()};
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t count, int64_t grain, Call call, const void* context) {
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  const int64_t max_runs = int64_t{1} << 30;
  if (count / grain >= max_runs) grain = count / max_runs + 1;
  const auto runs = static_cast<uint32_t>((count + grain - 1) / grain);

  // Closed first: no thread can take a run of the old epoch because of what is written next.
  next_.store((uint64_t{epoch} << 32) | kClosed, std::memory_order_release);
  runs_.store(runs, std::memory_order_release);
  count_.store(count, std::memory_order_release);
  grain_.store(grain, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  runs_done_.store(0, std::memory_order_release);
  next_.store(uint64_t{epoch} << 32, std::memory_order_release);
  epoch_.store(epoch, std::memory_order_release);
  epoch_.notify_all();

  Work(epoch, 0);
  for (uint32_t done = runs_done_.load(std::memory_order_acquire); done != runs;
       done = runs_done_.load(std::memory_order_acquire)) {
    WaitChange(runs_done_, done);
  }
}

void ThreadPool::Work(uint32_t epoch, int32_t thread) {
  uint64_t next = next_.load(std::memory_order_acquire);
  const uint32_t runs = runs_.load(std::memory_order_acquire);
  const int64_t count = count_.load(std::memory_order_acquire);
  const int64_t grain = grain_.load(std::memory_order_acquire);
  const Call call = call_.load(std::memory_order_acquire);
  const void* context = context_.load(std::memory_order_acquire);
  while (next >> 32 == epoch && (next & kClosed) < runs) {
    if (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    const int64_t begin = static_cast<int64_t>(next & kClosed) * grain;
    const int64_t end = begin + grain < count ? begin + grain : count;
    call(context, begin, end, thread);
    if (runs_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == runs) runs_done_.notify_one();
    next = next_.load(std::memory_order_acquire);
  }
}

void ThreadPool::Worker(int32_t thread) {
  uint32_t seen = 0;
  while (true) {
    WaitChange(epoch_, seen);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    Work(seen, thread);
  }
}

}  // namespace espalier::cpu
