#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/device/kernel_args.h"

namespace espalier::device {

// The order in which the host emulator runs the threads of a phase: a kernel that keeps its rules gives
// the same bits in every order.
enum class ThreadOrder : uint8_t { kAscending, kDescending, kShuffled };

// A block of threads on the CPU: the Block of device_code.h.
class HostEmulatorBlock {
 public:
  HostEmulatorBlock(const LaunchShape& shape, ThreadOrder order)
      : blocks_(shape.blocks),
        shared_bytes_(static_cast<size_t>(shape.shared_bytes)),
        shared_(std::make_unique<double[]>(shared_bytes_ / sizeof(double) + 1)),
        order_(order),
        threads_(kThreads) {
    std::iota(threads_.begin(), threads_.end(), 0);
    if (order == ThreadOrder::kDescending) std::reverse(threads_.begin(), threads_.end());
  }

  // Begins another block: shared memory holds garbage (NaN), as on the device.
  void Begin(int64_t index) {
    index_ = index;
    std::memset(shared_.get(), 0xff, shared_bytes_);
  }

  int64_t index() const { return index_; }
  int64_t blocks() const { return blocks_; }
  template <typename T>
  T* Shared() {
    return reinterpret_cast<T*>(shared_.get());
  }
  template <typename F>
  void ForThreads(F f) {
    if (order_ == ThreadOrder::kShuffled) std::shuffle(threads_.begin(), threads_.end(), random_);
    for (const int32_t thread : threads_) f(thread);
  }
  template <typename T>
  T Broadcast(const T* shared) {
    return *shared;
  }
  void Add(uint64_t* to, uint64_t value) { *to += value; }

 private:
  int64_t index_ = 0;
  int64_t blocks_;
  size_t shared_bytes_;
  std::unique_ptr<double[]> shared_;
  ThreadOrder order_;
  std::vector<int32_t> threads_;
  std::mt19937 random_{7};
};

}  // namespace espalier::device
