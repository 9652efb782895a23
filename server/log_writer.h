#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

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
  std::mutex mutex_;
  std::condition_variable changed_;  // for the thread: a line, or the end
  std::condition_variable idle_;     // for Flush
  std::deque<std::string> lines_;    // under mutex_, like what follows
  size_t queued_bytes_ = 0;
  int64_t lost_ = 0;      // lines
  bool writing_ = false;  // a line is taken and not yet written
  bool stopping_ = false;
  std::thread thread_;  // last: it runs when everything else is there
};

}  // namespace espalier
