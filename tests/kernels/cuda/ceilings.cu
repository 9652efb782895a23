// What this GPU reaches at best: copies, reads by size and bytes in flight, GEMM by cuBLASLt, launches.
// Prints one JSON object; with the argument `bulk` reads by bulk copies alone, so that a fault of theirs
// leaves the other figures. Exit code 77 without a usable device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/cublas_lt.h"
#include "tests/kernels/cuda/ceilings.h"

namespace espalier::ceilings {

namespace {

using cuda::CublasLtGemm;
using device::GemmArgs;

constexpr int kSkipped = 77;
constexpr int kRepeats = 11;

}  // namespace

// Neither zeros nor equal values: data of one bit pattern makes GEMM and memory faster than they are.
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

__global__ void Nothing() {}

Bench::Bench() {
  Check(cudaStreamCreate(&stream_), "a stream");
  Check(cudaEventCreate(&begin_), "an event");
  Check(cudaEventCreate(&end_), "an event");
}

double Bench::Time(const std::function<void()>& body) {
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

unsigned char* RandomMemory(int64_t bytes, bool bf16) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, static_cast<size_t>(bytes)), "memory");
  FillRandom<<<1024, 256>>>(static_cast<uint32_t*>(memory), bytes / 4, bf16);
  Check(cudaGetLastError(), "filling memory");
  Check(cudaDeviceSynchronize(), "filling memory");
  return static_cast<unsigned char*>(memory);
}

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

namespace {

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

void MeasureGemm(Bench& bench) {
  constexpr int32_t kSize = 8192;
  unsigned char* workspace = RandomMemory(CublasLtGemm::kWorkspaceBytes, false);
  unsigned char* a = RandomMemory(int64_t{kSize} * kSize * 2, true);
  unsigned char* w = RandomMemory(int64_t{kSize} * kSize * 2, true);
  unsigned char* c = RandomMemory(int64_t{kSize} * kSize * 4, false);
  auto gemm = CublasLtGemm::Create(workspace);
  if (!gemm) {
    std::fprintf(stderr, "%s\n", gemm.error().ToString().c_str());
    std::exit(1);
  }
  std::printf("  \"products\": [");
  bool first = true;
  for (const int32_t rows : {16, 64, 256, 1024, 8192}) {
    GemmArgs args;
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
      const Status status = (*gemm)->Run(args, bench.stream());
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

int Main(bool bulk) {
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
  if (bulk) {
    MeasureBulkReads(bench, device);
  } else {
    MeasureLaunches(bench);
    MeasureCopy(bench);
    MeasureReads(bench, device);
    MeasureGemm(bench);
  }
  std::printf("  \"device\": \"%s\", \"multiprocessors\": %d, \"l2_bytes\": %d, \"memory_bytes\": %zu\n}\n",
              device.name, device.multiProcessorCount, device.l2CacheSize, device.totalGlobalMem);
  return 0;
}

}  // namespace
}  // namespace espalier::ceilings

int main(int argc, char** argv) {
  const bool bulk = argc == 2 && std::strcmp(argv[1], "bulk") == 0;
  if (argc > 1 && !bulk) {
    std::fprintf(stderr, "usage: %s [bulk]\n", argv[0]);
    return 2;
  }
  return espalier::ceilings::Main(bulk);
}
