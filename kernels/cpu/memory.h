#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/base/result.h"

namespace espalier::cpu {

// Gives a buffer's memory back.
struct BufferRelease {
  int64_t bytes = 0;
  bool mapped = false;
  void operator()(void* data) const;
};

// Zeroed memory on a cache line's border; large buffers lie on huge pages where the system gives them.
class Buffer {
 public:
  Buffer() = default;
  // Error: not enough memory, naming `field`, the flag that asked for it.
  static Result<Buffer> Allocate(int64_t bytes, const std::string& field);

  void* data() const { return data_.get(); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  int64_t bytes() const { return data_.get_deleter().bytes; }

 private:
  std::unique_ptr<void, BufferRelease> data_;
};

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace espalier::cpu
