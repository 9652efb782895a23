#pragma once

#include <thread>

#include "kernels/base/mutex.h"

namespace espalier {

// Gives memory that was freed back to the system: after a burst of large or many requests the C library keeps
// what they had, and the process would look as if it still needed it. A thread of its own looks every few
// seconds and does nothing unless the process has grown.
class HeapTrimmer {
 public:
  HeapTrimmer();
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::jthread thread_;  // last: it runs when everything else is there
};

}  // namespace espalier
