#include "server/log_writer.h"

#include <utility>

#include "server/write_all.h"

namespace espalier {
namespace {

constexpr size_t kMaxQueuedBytes = 1 << 20;

}  // namespace

LogWriter::LogWriter(int file) : file_(file), thread_([this] { Run(); }) {}

LogWriter::~LogWriter() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void LogWriter::Write(std::string line) {
  {
    const MutexLock lock(mutex_);
    if (queued_bytes_ + line.size() > kMaxQueuedBytes) {
      ++lost_;
      return;
    }
    queued_bytes_ += line.size();
    lines_.push_back(std::move(line));
  }
  changed_.NotifyOne();
}

bool LogWriter::Flush(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  const MutexLock lock(mutex_);
  while (!lines_.empty() || writing_) {
    if (!idle_.WaitUntil(mutex_, until)) return lines_.empty() && !writing_;
  }
  return true;
}

void LogWriter::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && lines_.empty()) changed_.Wait(mutex_);
    if (stopping_) return;
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    queued_bytes_ -= line.size();
    // The lines that were dropped came after those that were queued then: it is said once all of these are
    // written.
    if (lines_.empty() && lost_ > 0) {
      line += "(" + std::to_string(lost_) + " lines of the log were dropped: nothing read them)\n";
      lost_ = 0;
    }
    writing_ = true;
    lock.Unlock();
    WriteAll(file_, line);  // the next line may find a reader or room again
    lock.Lock();
    writing_ = false;
    if (lines_.empty()) idle_.NotifyAll();
  }
}

}  // namespace espalier
