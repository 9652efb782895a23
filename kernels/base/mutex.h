#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

// What a mutex guards, said so that clang's -Wthread-safety checks it (scripts/lint.sh runs it); for other
// compilers the macros are empty. https://clang.llvm.org/docs/ThreadSafetyAnalysis.html defines them.
#if defined(__clang__)
#define ESPALIER_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define ESPALIER_THREAD_ATTRIBUTE(x)
#endif

// Of a field: read and written only while the mutex is held.
#define ESPALIER_GUARDED_BY(mutex) ESPALIER_THREAD_ATTRIBUTE(guarded_by(mutex))
// Of a function: its caller holds the mutex.
#define ESPALIER_REQUIRES(...) ESPALIER_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
// Of a mutex: where both are held, this one was taken first.
#define ESPALIER_ACQUIRED_BEFORE(...) ESPALIER_THREAD_ATTRIBUTE(acquired_before(__VA_ARGS__))

namespace espalier {

// std::mutex with the annotations that the standard library lacks.
class ESPALIER_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  // Says that the caller holds it where the analysis cannot see that, in a lambda for example. Does nothing.
  void AssertHeld() const ESPALIER_THREAD_ATTRIBUTE(assert_capability(this)) {}

 private:
  friend class MutexLock;
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a mutex during its life, but for the time between Unlock() and Lock().
class ESPALIER_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ESPALIER_THREAD_ATTRIBUTE(acquire_capability(mutex))
      : lock_(mutex.mutex_) {}
  ~MutexLock() ESPALIER_THREAD_ATTRIBUTE(release_capability()) = default;
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() ESPALIER_THREAD_ATTRIBUTE(release_capability()) { lock_.unlock(); }
  void Lock() ESPALIER_THREAD_ATTRIBUTE(acquire_capability()) { lock_.lock(); }

 private:
  std::unique_lock<std::mutex> lock_;
};

// std::condition_variable for a Mutex that the caller holds. Wakes may come without a reason: wait in a loop
// that looks at the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) ESPALIER_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    changed_.wait(lock);
    lock.release();
  }
  // False: the time is over.
  bool WaitUntil(Mutex& mutex, std::chrono::steady_clock::time_point time) ESPALIER_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool woken = changed_.wait_until(lock, time) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void NotifyOne() { changed_.notify_one(); }
  void NotifyAll() { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

}  // namespace espalier
