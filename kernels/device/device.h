#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "kernels/base/result.h"
#include "kernels/device/kernel_args.h"

namespace espalier::device {

struct DeviceInfo {
  std::string name;
  std::string architecture;  // "sm_90"
  int32_t processors = 1;
  int64_t shared_bytes = 0;  // the most that a block may have
  int64_t total_bytes = 0;
  int64_t cache_bytes = 0;    // of the last cache before memory
  int64_t library_bytes = 0;  // what code and libraries may take of its memory when they first run
};

// Memory, one stream of work and the kernels of a device: all that the backend asks of it. Everything but
// allocation is asynchronous and in order of the calls. The first error stays: later calls do nothing, and
// status() reports it. One thread calls. Events are numbers below kEvents.
class Device {
 public:
  static constexpr int32_t kEvents = 4096;

  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  const Status& status() const { return status_; }
  // Ends the device's use.
  void Fail(Error error) {
    if (status_.ok()) status_ = std::move(error);
  }

  // Device memory with unspecified contents, on a border of 256 bytes; never null. Pinned host memory
  // of the host, which kernels can use instead of device memory: slow, but available. kResourceExhausted
  // where memory is short, without ending the device's use.
  virtual Result<std::byte*> Allocate(int64_t bytes) = 0;
  virtual Result<std::byte*> AllocateHost(int64_t bytes) = 0;
  // Wait for all work before.
  virtual void Free(std::byte* memory) = 0;
  virtual void FreeHost(std::byte* memory) = 0;
  // Bytes that Allocate could still give.
  virtual int64_t FreeBytes() = 0;

  virtual void Upload(void* to, const void* from, int64_t bytes) = 0;    // host memory unchanged until done
  virtual void Download(void* to, const void* from, int64_t bytes) = 0;  // into host memory
  virtual void Copy(void* to, const void* from, int64_t bytes) = 0;      // what kernels can use
  virtual void Fill(void* to, int32_t byte, int64_t bytes) = 0;
  virtual void Synchronize() = 0;

  virtual void Record(int32_t event) = 0;
  virtual void WaitFor(int32_t event) = 0;                             // blocks the host
  virtual int64_t NanosecondsBetween(int32_t begin, int32_t end) = 0;  // of events that have happened

  virtual void Run(const EmbedArgs& args) = 0;
  virtual void Run(const RmsNormArgs& args) = 0;
  virtual void Run(const AddBiasArgs& args) = 0;
  virtual void Run(const SwiGluArgs& args) = 0;
  virtual void Run(const GatherArgs& args) = 0;
  virtual void Run(const RotaryArgs& args) = 0;
  virtual void Run(const ZeroBlocksArgs& args) = 0;
  virtual void Run(const CopyBlocksArgs& args) = 0;
  virtual void Run(const AttentionArgs& args) = 0;
  virtual void Run(const MergeArgs& args) = 0;
  virtual void Run(const SummarizeArgs& args) = 0;
  virtual void Run(const SampleArgs& args) = 0;
  virtual void Run(const ScoreArgs& args) = 0;
  virtual void Run(const TopTokensArgs& args) = 0;
  virtual void Run(const GemmArgs& args) = 0;

 protected:
  Status status_;
};

// Memory of a device that is given back.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device* device, std::byte* data, int64_t bytes, bool host)
      : device_(device), data_(data), bytes_(bytes), host_(host) {}
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    if (this == &other) return *this;
    Release();
    device_ = std::exchange(other.device_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    host_ = other.host_;
    return *this;
  }
  ~DeviceMemory() { Release(); }

  // `what` begins the message of an error, `field` names the flag at fault.
  static Result<DeviceMemory> Allocate(Device* device, int64_t bytes, const char* field, const char* what);
  static Result<DeviceMemory> AllocateHost(Device* device, int64_t bytes, const char* what);

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void Release() {
    if (data_ == nullptr) return;
    host_ ? device_->FreeHost(data_) : device_->Free(data_);
    data_ = nullptr;
  }

  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  bool host_ = false;
};

}  // namespace espalier::device
