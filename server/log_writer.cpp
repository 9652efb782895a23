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
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void LogWriter::Write(std::string line) {
  {
    const std::lock_guard lock(mutex_);
    if (queued_bytes_ + line.size() > kMaxQueuedBytes) {
      ++lost_;
      return;
    }
    queued_bytes_ += line.size();
    lines_.push_back(std::move(line));
  }
  changed_.notify_one();
}

bool LogWriter::Flush(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, patience, [this] { return lines_.empty() && !writing_; });
}

void LogWriter::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
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
    lock.unlock();
    WriteAll(file_, line);  // the next line may find a reader or room again
    lock.lock();
    writing_ = false;
    if (lines_.empty()) idle_.notify_all();
  }
}

}  // namespace espalier
