#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "kernels/base/mutex.h"
#include "kernels/base/result.h"

namespace espalier {

// Notifies one handler, once, that the engine has failed. Thread-safe.
class FailureNotice {
 public:
  using Handler = std::function<void(const Error&)>;

  // The handler set before is not called once this has returned. `failure()` says what has failed already, if
  // anything: then the handler is called here.
  template <typename Failure>
  void Set(Handler handler, const Failure& failure) {
    const MutexLock one_at_a_time(mutex_);
    const std::optional<Error> failed = failure();
    handler_ = failed ? nullptr : std::move(handler);
    if (failed && handler) handler(*failed);
  }

  // Precondition: `failure()` of later calls of Set returns the error.
  void Give(const Error& error) {
    const MutexLock one_at_a_time(mutex_);
    if (const Handler handler = std::exchange(handler_, nullptr)) handler(error);
  }

 private:
  Mutex mutex_;  // held while the handler runs
  Handler handler_ ESPALIER_GUARDED_BY(mutex_);
};

}  // namespace espalier
