#include "server/heap_trimmer.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>

namespace espalier {
namespace {

constexpr std::chrono::seconds kPeriod{3};
constexpr int64_t kGrowthBytes = int64_t{16} << 20;

// What the process has in memory beyond what its heap is used for: memory that was freed, and what is no
// heap.
int64_t UnusedBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  const struct mallinfo2 heap = mallinfo2();
  return resident_pages * sysconf(_SC_PAGESIZE) - static_cast<int64_t>(heap.uordblks + heap.hblkhd);
}

}  // namespace

HeapTrimmer::HeapTrimmer() : thread_([this] { Run(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

void HeapTrimmer::Run() {
  int64_t least_bytes = UnusedBytes();  // since the last time that anything was given back
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPeriod, [this] { return stopping_; })) {
    lock.unlock();
    const int64_t unused_bytes = UnusedBytes();
    if (unused_bytes > least_bytes + kGrowthBytes) {
      malloc_trim(0);
      least_bytes = UnusedBytes();
    } else {
      least_bytes = std::min(least_bytes, unused_bytes);
    }
    lock.lock();
  }
}

}  // namespace espalier
