#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <thread>

#include "kernels/base/mutex.h"

namespace espalier {

// Writes lines to a file that may stop taking them: a pipe whose reader stands still or has gone, a full
// disk, a stopped terminal. Thread-safe.
class LogWriter {
 public:
  // `file` stays the caller's. Throws std::system_error where the system gives no thread.
  explicit LogWriter(int file);
  // What is queued is lost. Waits for the line that is being written.
  ~LogWriter();

  // Never waits. `line` with its newline; dropped and counted where the queue is full, and the next line that
  // is written says how many were.
  void Write(std::string line);

  // Waits until everything is written, or given up because the file takes nothing any more; at most
  // `patience`. False: it was not enough.
  bool Flush(std::chrono::milliseconds patience);

 private:
  void Run();

  const int file_;
  Mutex mutex_;
  CondVar changed_;  // for the thread: a line, or the end
  CondVar idle_;     // for Flush
  std::deque<std::string> lines_ ESPALIER_GUARDED_BY(mutex_);
  size_t queued_bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;
  int64_t lost_ ESPALIER_GUARDED_BY(mutex_) = 0;      // lines
  bool writing_ ESPALIER_GUARDED_BY(mutex_) = false;  // a line is taken and not yet written
  bool stopping_ ESPALIER_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it runs when everything else is there
};

}  // namespace espalier
