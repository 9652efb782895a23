#include "tests/kernels/host_emulator.h"

#include <array>
#include <chrono>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels/device/device_backend.h"
#include "kernels/device/kernel/attention.h"
#include "kernels/device/kernel/sampling.h"

namespace espalier::device {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kCacheBytes = int64_t{1} << 20;

// Sixteen sums side by side; k is a multiple of 16.
template <typename T>
float Dot(const T* a, const T* b, int32_t k) {
  std::array<float, 16> sums{};
  for (int32_t i = 0; i < k; i += 16) {
    for (size_t j = 0; j < 16; ++j) {
      sums[j] += Load(a + i + static_cast<int64_t>(j)) * Load(b + i + static_cast<int64_t>(j));
    }
  }
  float sum = 0.0F;
  for (const float part : sums) sum += part;
  return sum;
}

class HostEmulator final : public Device {
 public:
  explicit HostEmulator(const HostEmulatorOptions& options)
      : options_(options), to_load_bytes_(options.library_bytes) {
    info_.name = "host emulator";
    info_.architecture = "host";
    info_.processors = options.processors;
    info_.shared_bytes = options.shared_bytes;
    info_.total_bytes = options.memory_bytes;
    info_.cache_bytes = kCacheBytes;
    info_.library_bytes = options.library_bytes;
  }

  const DeviceInfo& info() const override { return info_; }

  Result<std::byte*> Allocate(int64_t bytes) override {
    if (bytes > FreeBytes()) {
      return Error{ErrorCode::kResourceExhausted, "",
                   "the device has " + std::to_string(FreeBytes()) + " bytes left"};
    }
    used_bytes_ += bytes;
    return NewMemory(bytes);
  }
  Result<std::byte*> AllocateHost(int64_t bytes) override { return NewMemory(bytes); }
  void Free(std::byte* memory) override {
    used_bytes_ -= sizes_[memory];
    FreeHost(memory);
  }
  void FreeHost(std::byte* memory) override {
    sizes_.erase(memory);
    ::operator delete[](memory, std::align_val_t{256});
  }
  int64_t FreeBytes() override { return options_.memory_bytes - used_bytes_; }

  void Upload(void* to, const void* from, int64_t bytes) override { Copy(to, from, bytes); }
  void Download(void* to, const void* from, int64_t bytes) override { Copy(to, from, bytes); }
  void Copy(void* to, const void* from, int64_t bytes) override {
    if (bytes > 0 && status_.ok()) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void Fill(void* to, int32_t byte, int64_t bytes) override {
    if (bytes > 0 && status_.ok()) std::memset(to, byte, static_cast<size_t>(bytes));
  }
  void Synchronize() override {}
  void Record(int32_t event) override { events_.at(static_cast<size_t>(event)) = Clock::now(); }
  void WaitFor(int32_t) override {}
  int64_t NanosecondsBetween(int32_t begin, int32_t end) override {
    const auto time = events_.at(static_cast<size_t>(end)) - events_.at(static_cast<size_t>(begin));
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  }

  void Run(const EmbedArgs& args) override { Launch(args); }
  void Run(const RmsNormArgs& args) override { Launch(args); }
  void Run(const AddBiasArgs& args) override { Launch(args); }
  void Run(const SwiGluArgs& args) override { Launch(args); }
  void Run(const GatherArgs& args) override { Launch(args); }
  void Run(const RotaryArgs& args) override { Launch(args); }
  void Run(const ZeroBlocksArgs& args) override { Launch(args); }
  void Run(const CopyBlocksArgs& args) override { Launch(args); }
  void Run(const AttentionArgs& args) override { Launch(args); }
  void Run(const MergeArgs& args) override { Launch(args); }
  void Run(const SummarizeArgs& args) override { Launch(args); }
  void Run(const SampleArgs& args) override { Launch(args); }
  void Run(const ScoreArgs& args) override { Launch(args); }
  void Run(const TopTokensArgs& args) override { Launch(args); }
  void Run(const GemmArgs& args) override {
    LoadLibrary();
    if (!status_.ok()) return;
    ESPALIER_CHECK(args.n % 16 == 0 && args.k % 16 == 0 && args.a_stride % 16 == 0 &&
                   args.c_stride % 16 == 0);
    WithOperandType(args.bf16, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      for (int64_t n = 0; n < args.n; ++n) {
        const T* w = static_cast<const T*>(args.w) + n * args.k;
        for (int64_t row = 0; row < args.rows; ++row) {
          const float dot = Dot(static_cast<const T*>(args.a) + row * args.a_stride, w, args.k);
          float& c = args.c[row * args.c_stride + n];
          c = args.accumulate ? c + dot : dot;
        }
      }
    });
  }

 private:
  void LoadLibrary() {
    const int64_t bytes = std::exchange(to_load_bytes_, 0);
    if (bytes > FreeBytes()) Fail({ErrorCode::kUnavailable, "", "no memory is left for the code of GEMM"});
    used_bytes_ += bytes;
  }

  std::byte* NewMemory(int64_t bytes) {
    auto* memory =
        static_cast<std::byte*>(::operator new[](static_cast<size_t>(bytes), std::align_val_t{256}));
    std::memset(memory, 0xff, static_cast<size_t>(bytes));
    sizes_[memory] = bytes;
    return memory;
  }

  template <typename Args>
  void Launch(const Args& args) {
    if (!status_.ok()) return;
    const LaunchShape shape = args.Shape();
    ESPALIER_CHECK(shape.blocks >= 0 && shape.blocks <= INT32_MAX &&
                   shape.shared_bytes <= options_.shared_bytes);
    HostEmulatorBlock block(shape, options_.order);
    for (int64_t i = 0; i < shape.blocks; ++i) {
      block.Begin(i);
      device::Run(block, args);
    }
  }

  HostEmulatorOptions options_;
  DeviceInfo info_;
  int64_t used_bytes_ = 0;
  int64_t to_load_bytes_;
  std::unordered_map<std::byte*, int64_t> sizes_;
  std::array<Clock::time_point, kEvents> events_{};
};

}  // namespace

std::unique_ptr<Device> CreateHostEmulator(const HostEmulatorOptions& options) {
  return std::make_unique<HostEmulator>(options);
}

Result<std::unique_ptr<Backend>> CreateHostEmulatorBackend(const BackendOptions& options,
                                                           const HostEmulatorOptions& emulator) {
  return DeviceBackend::Create(options, CreateHostEmulator(emulator));
}

}  // namespace espalier::device
