// What this GPU reaches at best: copies, reads by size and bytes in flight, products by cuBLASLt, launches.
// Prints one JSON object. Exit code 77 without a usable device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cublas_lt.h"

namespace {

using espalier::cuda::ProductArgs;
using espalier::cuda::Products;

constexpr int kSkipped = 77;
constexpr int kRepeats = 11;

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Neither zeros nor equal values: data of one bit pattern makes products and memories faster than they are.
__global__ void FillRandom(uint32_t* data, int64_t words, bool bf16) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < words;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t x = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ULL + 0x1234567ULL;
    x ^= x >> 31;
    x *= 0xBF58476D1CE4E5B9ULL;
    x ^= x >> 29;
    auto word = static_cast<uint32_t>(x);
    // Signs and mantissas of two bf16 numbers in (-2, 2).
    if (bf16) word = (word & 0x807f807fU) | 0x3f803f80U;
    data[i] = word;
  }
}

// Each block reads the pieces of `piece_bytes` that fall to it, all of them spread over the buffer, with four
// groups of `group_bytes` under way. Shared memory is the target, as for attention's KV.
__global__ void __launch_bounds__(256, 1)
    ReadOnly(const unsigned char* data, int64_t pieces, int piece_bytes, int group_bytes, uint32_t* sink) {
  extern __shared__ __align__(128) unsigned char ring[];
  const int pieces_of_group = group_bytes / piece_bytes;
  const int64_t groups = pieces / pieces_of_group / gridDim.x;
  for (int64_t g = 0; g < groups; ++g) {
    unsigned char* stage = ring + (g % 4) * group_bytes;
    for (int i = static_cast<int>(threadIdx.x) * 16; i < group_bytes; i += 256 * 16) {
      const int64_t piece = ((g * pieces_of_group + i / piece_bytes) * gridDim.x + blockIdx.x) % pieces;
      const unsigned char* from = data + piece * piece_bytes + i % piece_bytes;
      const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(stage + i));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 3;" ::: "memory");
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  if (data == nullptr) sink[threadIdx.x] = ring[threadIdx.x];
}

__global__ void Nothing() {}

class Bench {
 public:
  Bench() {
    Check(cudaStreamCreate(&stream_), "a stream");
    Check(cudaEventCreate(&begin_), "an event");
    Check(cudaEventCreate(&end_), "an event");
  }

  // Median microseconds.
  double Time(const std::function<void()>& body) {
    std::vector<float> times;
    for (int i = 0; i < kRepeats + 2; ++i) {
      Check(cudaEventRecord(begin_, stream_), "an event");
      body();
      Check(cudaEventRecord(end_, stream_), "an event");
      Check(cudaEventSynchronize(end_), "a measurement");
      float milliseconds = 0.0F;
      Check(cudaEventElapsedTime(&milliseconds, begin_, end_), "timing");
      if (i >= 2) times.push_back(milliseconds);
    }
    std::sort(times.begin(), times.end());
    return static_cast<double>(times[times.size() / 2]) * 1000.0;
  }
  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

unsigned char* RandomMemory(int64_t bytes, bool bf16) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, static_cast<size_t>(bytes)), "memory");
  FillRandom<<<1024, 256>>>(static_cast<uint32_t*>(memory), bytes / 4, bf16);
  Check(cudaDeviceSynchronize(), "filling memory");
  return static_cast<unsigned char*>(memory);
}

void MeasureCopy(Bench& bench) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  unsigned char* from = RandomMemory(kBytes, false);
  unsigned char* to = RandomMemory(kBytes, false);
  const double us = bench.Time(
      [&] { Check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, bench.stream()), "a copy"); });
  std::printf("  \"copy_gb_per_s\": %.1f,\n", 2.0 * kBytes / us / 1000.0);
  Check(cudaFree(from), "memory");
  Check(cudaFree(to), "memory");
}

void MeasureReads(Bench& bench, const cudaDeviceProp& device) {
  const int most = static_cast<int>(device.sharedMemPerBlockOptin);
  Check(cudaFuncSetAttribute(ReadOnly, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "shared memory");
  unsigned char* data = RandomMemory(int64_t{2} << 30, false);
  std::printf("  \"reads\": [");
  bool first = true;
  for (const bool cached : {false, true}) {
    // Half of the second-level cache, or far more than it.
    const int64_t bytes = cached ? device.l2CacheSize / 2 / 65536 * 65536 : int64_t{2} << 30;
    for (const int in_flight : {32 << 10, 64 << 10, 96 << 10, 128 << 10, 160 << 10}) {
      for (const int piece : {2 << 10, 4 << 10, 8 << 10, 32 << 10}) {
        const int group = in_flight / 4;
        if (in_flight > most || group % piece != 0) continue;
        const int64_t pieces = bytes / piece;
        // What the kernel reads: whole groups for each block.
        const int64_t read =
            pieces / (group / piece) / device.multiProcessorCount * device.multiProcessorCount * group;
        if (read == 0) continue;
        const double us = bench.Time([&] {
          ReadOnly<<<device.multiProcessorCount, 256, in_flight, bench.stream()>>>(data, pieces, piece, group,
                                                                                   nullptr);
          Check(cudaGetLastError(), "reading");
        });
        std::printf(
            "%s\n    {\"from\": \"%s\", \"piece_bytes\": %d, \"bytes_in_flight_per_sm\": %d, \"gb_per_s\": "
            "%.1f}",
            first ? "" : ",", cached ? "l2" : "memory", piece, in_flight,
            static_cast<double>(read) / us / 1000.0);
        first = false;
      }
    }
  }
  std::printf("\n  ],\n");
  Check(cudaFree(data), "memory");
}

void MeasureProducts(Bench& bench) {
  constexpr int32_t kSize = 8192;
  unsigned char* workspace = RandomMemory(Products::kWorkspaceBytes, false);
  unsigned char* a = RandomMemory(int64_t{kSize} * kSize * 2, true);
  unsigned char* w = RandomMemory(int64_t{kSize} * kSize * 2, true);
  unsigned char* c = RandomMemory(int64_t{kSize} * kSize * 4, false);
  auto products = Products::Create(workspace);
  if (!products) {
    std::fprintf(stderr, "%s\n", products.error().ToString().c_str());
    std::exit(1);
  }
  std::printf("  \"products\": [");
  bool first = true;
  for (const int32_t rows : {16, 64, 256, 1024, 8192}) {
    ProductArgs args;
    args.a = a;
    args.a_stride = kSize;
    args.w = w;
    args.c = reinterpret_cast<float*>(c);
    args.c_stride = kSize;
    args.rows = rows;
    args.n = kSize;
    args.k = kSize;
    args.bf16 = true;
    const double us = bench.Time([&] {
      const espalier::Status status = (*products)->Run(args, bench.stream());
      if (status.ok()) return;
      std::fprintf(stderr, "%s\n", status.error().ToString().c_str());
      std::exit(1);
    });
    std::printf(
        "%s\n    {\"rows\": %d, \"n\": %d, \"k\": %d, \"us\": %.1f, \"tflop_per_s\": %.1f, "
        "\"weight_gb_per_s\": %.1f}",
        first ? "" : ",", rows, kSize, kSize, us, 2.0 * rows * kSize * kSize / us / 1e6,
        2.0 * kSize * kSize / us / 1000.0);
    first = false;
  }
  std::printf("\n  ],\n");
}

void MeasureLaunches(Bench& bench) {
  constexpr int kLaunches = 200;
  const auto launch = [&] {
    for (int i = 0; i < kLaunches; ++i) Nothing<<<1, 32, 0, bench.stream()>>>();
  };
  std::printf("  \"launch_us\": %.2f,\n", bench.Time(launch) / kLaunches);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t instance = nullptr;
  Check(cudaStreamBeginCapture(bench.stream(), cudaStreamCaptureModeGlobal), "a graph");
  launch();
  Check(cudaStreamEndCapture(bench.stream(), &graph), "a graph");
  Check(cudaGraphInstantiate(&instance, graph, 0), "a graph");
  const double us = bench.Time([&] { Check(cudaGraphLaunch(instance, bench.stream()), "a graph"); });
  std::printf("  \"graph_node_us\": %.2f,\n", us / kLaunches);
}

}  // namespace

int main() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::fprintf(stderr, "no usable NVIDIA device: %s\n", cudaGetErrorString(error));
    return kSkipped;
  }
  cudaDeviceProp device = {};
  Check(cudaGetDeviceProperties(&device, 0), "the device");
  Bench bench;
  std::printf("{\n");
  MeasureLaunches(bench);
  MeasureCopy(bench);
  MeasureReads(bench, device);
  MeasureProducts(bench);
  std::printf("  \"device\": \"%s\", \"multiprocessors\": %d, \"l2_bytes\": %d, \"memory_bytes\": %zu\n}\n",
              device.name, device.multiProcessorCount, device.l2CacheSize, device.totalGlobalMem);
  return 0;
}
