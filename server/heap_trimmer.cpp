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
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
}

void HeapTrimmer::Run() {
  int64_t min_bytes = UnusedBytes();  // since the last time that anything was given back
  MutexLock lock(mutex_);
  while (true) {
    const auto until = std::chrono::steady_clock::now() + kPeriod;
    while (!stopping_ && changed_.WaitUntil(mutex_, until)) {
    }
    if (stopping_) return;
    lock.Unlock();
    const int64_t unused_bytes = UnusedBytes();
    if (unused_bytes > min_bytes + kGrowthBytes) {
      malloc_trim(0);
      min_bytes = UnusedBytes();
    } else {
      min_bytes = std::min(min_bytes, unused_bytes);
    }
    lock.Lock();
  }
}

}  // namespace espalier
