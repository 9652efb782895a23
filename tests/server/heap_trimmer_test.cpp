#include "server/heap_trimmer.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/sanitized.h"

namespace espalier::test {
namespace {

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  file >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

TEST_CASE("memory that a burst of small pieces has left free goes back to the system") {
  if (kSanitized) return SkipTest("sanitizers have a heap of their own");
  constexpr int64_t kBurstBytes = int64_t{128} << 20;
  constexpr int kPieceBytes = 1000;
  const HeapTrimmer trimmer;
  const int64_t before = ResidentBytes();
  std::unique_ptr<std::vector<char>> last;  // at the heap's end: without a trim all before it stays
  std::thread([&] {
    std::vector<std::unique_ptr<std::vector<char>>> pieces;
    for (int64_t bytes = 0; bytes < kBurstBytes; bytes += kPieceBytes)
      pieces.push_back(std::make_unique<std::vector<char>>(kPieceBytes, 'x'));
    last = std::make_unique<std::vector<char>>(kPieceBytes, 'x');
  }).join();
  REQUIRE(ResidentBytes() > before + kBurstBytes / 2);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (ResidentBytes() > before + kBurstBytes / 4) {
    if (std::chrono::steady_clock::now() > deadline) FAIL("still in memory after a minute");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace
}  // namespace espalier::test
