#include "kernels/cuda/gpu_device.h"

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/gpu_ops.h"

namespace espalier::cuda {

namespace {

// What cuBLASLt's kernels and ours take when they are first run (the runtime loads code lazily), and the
// device for itself. An upper estimate, not a measurement.
constexpr int64_t kLibraryBytes = int64_t{256} << 20;

Error NotUsable(std::string message) { return {ErrorCode::kUnimplemented, "backend", std::move(message)}; }

std::string TextOf(cudaError_t error) {
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

class GpuDevice final : public device::Device {
 public:
  static Result<std::unique_ptr<device::Device>> Open() {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
      int driver = 0;
      cudaDriverGetVersion(&driver);
      return NoDevice(driver, CUDART_VERSION, TextOf(error == cudaSuccess ? cudaErrorNoDevice : error));
    }
    cudaDeviceProp properties = {};
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0); error != cudaSuccess) {
      return NotUsable("the NVIDIA device does not answer: " + TextOf(error));
    }
    if (Status status = CheckCapability(properties.name, properties.major, properties.minor); !status.ok()) {
      return status.error();
    }
    std::unique_ptr<GpuDevice> device(new GpuDevice(properties));
    if (Status status = device->Start(); !status.ok()) return status.error();
    return std::unique_ptr<device::Device>(std::move(device));
  }

  ~GpuDevice() override {
    gemm_ = nullptr;
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (workspace_ != nullptr) cudaFree(workspace_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  const device::DeviceInfo& info() const override { return info_; }

  Result<std::byte*> Allocate(int64_t bytes) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
    return Allocated(error, memory);
  }
  Result<std::byte*> AllocateHost(int64_t bytes) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocHost(&memory, static_cast<size_t>(bytes));
    return Allocated(error, memory);
  }
  void Free(std::byte* memory) override {
    cudaStreamSynchronize(stream_);
    cudaFree(memory);
  }
  void FreeHost(std::byte* memory) override {
    cudaStreamSynchronize(stream_);
    cudaFreeHost(memory);
  }
  int64_t FreeBytes() override {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    if (!Check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory")) return 0;
    return static_cast<int64_t>(free_bytes);
  }

  void Upload(void* to, const void* from, int64_t bytes) override {
    Move(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void Download(void* to, const void* from, int64_t bytes) override {
    Move(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  void Copy(void* to, const void* from, int64_t bytes) override { Move(to, from, bytes, cudaMemcpyDefault); }
  void Fill(void* to, int32_t byte, int64_t bytes) override {
    if (bytes == 0 || !status_.ok()) return;
    Check(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), stream_), "a fill");
  }
  void Synchronize() override {
    if (status_.ok()) Check(cudaStreamSynchronize(stream_), "waiting for the device");
  }

  void Record(int32_t event) override {
    if (!status_.ok()) return;
    cudaEvent_t& e = events_.at(static_cast<size_t>(event));
    if (e == nullptr && !Check(cudaEventCreate(&e), "an event")) return;
    Check(cudaEventRecord(e, stream_), "an event");
  }
  void WaitFor(int32_t event) override {
    if (status_.ok()) Check(cudaEventSynchronize(events_.at(static_cast<size_t>(event))), "a step");
  }
  int64_t NanosecondsBetween(int32_t begin, int32_t end) override {
    float milliseconds = 0.0F;
    const auto event = [this](int32_t index) { return events_.at(static_cast<size_t>(index)); };
    if (!status_.ok() || !Check(cudaEventElapsedTime(&milliseconds, event(begin), event(end)), "timing"))
      return 0;
    return static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
  }

  void Run(const device::EmbedArgs& args) override { Launch(args, "embedding"); }
  void Run(const device::RmsNormArgs& args) override { Launch(args, "normalisation"); }
  void Run(const device::AddBiasArgs& args) override { Launch(args, "bias"); }
  void Run(const device::SwiGluArgs& args) override { Launch(args, "SwiGLU"); }
  void Run(const device::GatherArgs& args) override { Launch(args, "gathering"); }
  void Run(const device::RotaryArgs& args) override { Launch(args, "rotary embedding"); }
  void Run(const device::ZeroBlocksArgs& args) override { Launch(args, "zeroing of blocks"); }
  void Run(const device::CopyBlocksArgs& args) override { Launch(args, "copies of blocks"); }
  void Run(const device::AttentionArgs& args) override { Launch(args, "attention"); }
  void Run(const device::MergeArgs& args) override { Launch(args, "merging"); }
  void Run(const device::SummarizeArgs& args) override { Launch(args, "summaries of logits"); }
  void Run(const device::SampleArgs& args) override { Launch(args, "sampling"); }
  void Run(const device::ScoreArgs& args) override { Launch(args, "scoring"); }
  void Run(const device::TopTokensArgs& args) override { Launch(args, "top tokens"); }
  void Run(const device::GemmArgs& args) override {
    if (!status_.ok()) return;
    if (Status status = gemm_->Run(args, stream_); !status.ok()) Fail(status.error());
  }

 private:
  explicit GpuDevice(const cudaDeviceProp& properties) : events_(kEvents, nullptr) {
    info_.name = properties.name;
    info_.architecture = "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
    info_.processors = properties.multiProcessorCount;
    info_.shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
    info_.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    info_.cache_bytes = properties.l2CacheSize;
    info_.library_bytes = kLibraryBytes;
  }

  Status Start() {
    for (const cudaError_t error :
         {cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
          cudaMalloc(&workspace_, static_cast<size_t>(CublasLtGemm::kWorkspaceBytes))}) {
      if (error != cudaSuccess) return NotUsable(info_.name + " does not start: " + TextOf(error));
    }
    if (const cudaError_t error = ProbeKernel(); error != cudaSuccess) {
      return NotUsable(info_.name + ": this program has no code for " + info_.architecture + ": " +
                       TextOf(error));
    }
    Result<std::unique_ptr<CublasLtGemm>> gemm = CublasLtGemm::Create(workspace_);
    if (!gemm) return gemm.error();
    gemm_ = std::move(*gemm);
    return {};
  }

  Result<std::byte*> Allocated(cudaError_t error, void* memory) {
    if (error == cudaSuccess) return static_cast<std::byte*>(memory);
    cudaGetLastError();  // running out of memory does not end the device's use
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    return Error{ErrorCode::kResourceExhausted, "",
                 TextOf(error) + ", " + std::to_string(free_bytes) + " of the device's " +
                     std::to_string(total_bytes) + " bytes are free"};
  }

  bool Check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return true;
    Fail({ErrorCode::kUnavailable, "", info_.name + ": " + what + " failed: " + TextOf(error)});
    return false;
  }

  void Move(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0 || !status_.ok()) return;
    Check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream_), "a copy");
  }

  template <typename Args>
  void Launch(const Args& args, const char* what) {
    if (status_.ok()) Check(LaunchKernel(args, stream_), what);
  }

  device::DeviceInfo info_;
  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  std::vector<cudaEvent_t> events_;  // made when first recorded
  std::unique_ptr<CublasLtGemm> gemm_;
};

}  // namespace

Result<std::unique_ptr<device::Device>> OpenGpu() { return GpuDevice::Open(); }

Error NoDevice(int driver, int runtime, const std::string& reason) {
  const auto text = [](int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  };
  if (driver == 0) return NotUsable("no NVIDIA driver is installed here");
  // Drivers run programs of their own major version.
  if (driver / 1000 < runtime / 1000) {
    return NotUsable("the NVIDIA driver is for CUDA " + text(driver) + ", this program needs one for CUDA " +
                     std::to_string(runtime / 1000) + ".0 or later");
  }
  return NotUsable("no usable NVIDIA device: " + reason);
}

Status CheckCapability(const std::string& name, int major, int minor) {
  if (major >= 8) return {};
  return NotUsable(name + " has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
                   ", the cuda backend needs 8.0 or later");
}

}  // namespace espalier::cuda
