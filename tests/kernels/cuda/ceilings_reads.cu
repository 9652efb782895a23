#include <cstdio>
#include <cstdlib>

#include "tests/kernels/cuda/ceilings.h"

namespace espalier::ceilings {

// What is measured here has been compiled, for sm_80 and sm_90a, and has run on no GPU yet.
namespace {
constexpr int kGroups = 4;      // of cp.async, under way in a block
constexpr int kMaxStages = 96;  // of bulk copies
constexpr int kMaxProducers = 4;
constexpr int kAsyncThreads = 256;
constexpr int64_t kMemoryBytes = int64_t{2} << 30;
constexpr int kCachedLaps = 16;  // one takes less than a launch
}  // namespace

// A block reads the pieces block, block + blocks, ... of the buffer, whole groups of them, `laps` times:
// neighbouring blocks read neighbouring pieces. Shared memory is the target, as for attention's KV.
__global__ void __launch_bounds__(kAsyncThreads, 1)
    ReadAsync(const unsigned char* data, int64_t pieces, int piece_bytes, int group_bytes, int laps) {
  extern __shared__ __align__(128) unsigned char ring[];
  const int pieces_of_group = group_bytes / piece_bytes;
  const int64_t groups = pieces / pieces_of_group / gridDim.x;
  int group = 0;  // of the ring
  for (int lap = 0; lap < laps; ++lap) {
    for (int64_t g = 0; g < groups; ++g) {
      unsigned char* stage = ring + group * group_bytes;
      for (int i = static_cast<int>(threadIdx.x) * 16; i < group_bytes; i += kAsyncThreads * 16) {
        const int64_t piece = (g * pieces_of_group + i / piece_bytes) * gridDim.x + blockIdx.x;
        const unsigned char* from = data + piece * piece_bytes + i % piece_bytes;
        const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(stage + i));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
      }
      asm volatile("cp.async.commit_group;" ::: "memory");
      asm volatile("cp.async.wait_group 3;" ::: "memory");
      group = group + 1 == kGroups ? 0 : group + 1;
    }
  }
  asm volatile("cp.async.wait_group 0;" ::: "memory");
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
// A bulk copy whose bytes `barrier` counts; its phase ends when all of them are there.
__device__ __forceinline__ void CopyBulk(unsigned char* to, const unsigned char* from, uint32_t bytes,
                                         uint64_t* barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}
// Ends the kernel with an error where the phase does not end: a program that hangs reports nothing.
__device__ __forceinline__ void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  constexpr uint32_t kMaxTries = 1 << 22;
  uint32_t done = 0;
  for (uint32_t tries = 0; done == 0; ++tries) {
    if (tries == kMaxTries) __trap();
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
}
#endif

// The same by bulk copies into a ring of `stages` pieces. The block's warps issue them in turn: warp w has
// the copies and the stages w, w + warps, ...; it waits for its oldest and sets off its next into that place.
// `copies` (of the block) and `stages` are multiples of the warps; a lap that ends begins again. With kSum
// every word that came is added to *sum, which shows that all came, and came from where they should. Does
// nothing on older devices.
template <bool kSum>
__global__ void __launch_bounds__(32 * kMaxProducers, 1)
    ReadBulk(const unsigned char* data, int64_t pieces, uint32_t piece_bytes, int stages, int64_t copies,
             uint32_t* sum) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ __align__(8) uint64_t full[kMaxStages];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(&full[stage])) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (!kSum && lane != 0) return;

  const int64_t own = copies / warps;
  int64_t issued = 0;
  int64_t piece = int64_t{warp} * gridDim.x + blockIdx.x;  // of the next copy
  const auto issue = [&](int stage) {
    if (lane == 0)
      CopyBulk(ring + stage * piece_bytes, data + piece * piece_bytes, piece_bytes, &full[stage]);
    piece += int64_t{warps} * gridDim.x;
    if (piece >= pieces) piece -= pieces;
    ++issued;
  };
  for (int stage = warp; stage < stages && issued < own; stage += warps) issue(stage);
  uint32_t words = 0;
  uint32_t parity = 0;
  int stage = warp;
  for (int64_t done = 0; done < own; ++done) {
    WaitForPhase(&full[stage], parity);
    if (kSum) {
      const auto* read = reinterpret_cast<const uint32_t*>(ring + stage * piece_bytes);
      for (uint32_t i = lane; i < piece_bytes / 4; i += 32) words += read[i];
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // before the place is written again
      __syncwarp();
    }
    if (issued < own) issue(stage);
    stage += warps;
    if (stage < stages) continue;
    stage = warp;
    parity ^= 1;
  }
  if (kSum) atomicAdd(sum, words);
#endif
}

__global__ void SumWords(const uint32_t* data, int64_t words, uint32_t* sum) {
  uint32_t part = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < words;
       i += int64_t{gridDim.x} * blockDim.x) {
    part += data[i];
  }
  atomicAdd(sum, part);
}

namespace {

class Reads {
 public:
  Reads(Bench* bench, const cudaDeviceProp& device)
      : bench_(bench),
        blocks_(device.multiProcessorCount),
        max_(static_cast<int>(device.sharedMemPerBlockOptin)),
        cached_bytes_(device.l2CacheSize / 2 / 65536 * 65536),
        data_(RandomMemory(kMemoryBytes, false)) {
    // The barriers of ReadBulk lie in shared memory too.
    const int ring = max_ - kMaxStages * 8;
    Check(cudaFuncSetAttribute(ReadAsync, cudaFuncAttributeMaxDynamicSharedMemorySize, max_),
          "shared memory");
    Check(cudaFuncSetAttribute(ReadBulk<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, ring),
          "shared memory");
    Check(cudaFuncSetAttribute(ReadBulk<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, ring),
          "shared memory");
  }
  ~Reads() { Check(cudaFree(data_), "memory"); }

  void Async() {
    Each([&](const Case& c) {
      const int group = c.in_flight / kGroups;
      if (c.in_flight > max_ || group % c.piece != 0) return;
      const int64_t pieces = c.bytes / c.piece;
      const int64_t groups = pieces / (group / c.piece) / blocks_;
      if (groups == 0) return;
      const double us = bench_->Time([&] {
        ReadAsync<<<blocks_, kAsyncThreads, c.in_flight, bench_->stream()>>>(data_, pieces, c.piece, group,
                                                                             c.laps);
        Check(cudaGetLastError(), "reading");
      });
      Report(c, "cp.async", kAsyncThreads / 32, groups * group * c.laps, us);
    });
  }

  void Bulk() {
    for (const int producers : {1, kMaxProducers}) {
      Each([&](const Case& c) {
        const int stages = c.in_flight / c.piece;
        const int64_t pieces = c.bytes / c.piece;
        if (c.in_flight > max_ - kMaxStages * 8 || stages % producers != 0 || stages > kMaxStages) return;
        const int64_t copies = pieces / blocks_ * c.laps / producers * producers;
        if (pieces < int64_t{blocks_} * producers) return;
        const double us = bench_->Time([&] {
          ReadBulk<false><<<blocks_, 32 * producers, c.in_flight, bench_->stream()>>>(
              data_, pieces, static_cast<uint32_t>(c.piece), stages, copies, nullptr);
          Check(cudaGetLastError(), "reading");
        });
        Report(c, "cp.async.bulk", producers, copies * c.piece, us);
      });
    }
  }

  // Bulk copies bring every word, once.
  void CheckBulk() {
    void* memory = nullptr;
    Check(cudaMalloc(&memory, 8), "memory");
    auto* sums = static_cast<uint32_t*>(memory);
    for (const int producers : {1, kMaxProducers}) {
      for (const int piece : {2 << 10, 32 << 10}) {
        const int64_t copies = 100;
        const int64_t pieces = copies * blocks_;
        uint32_t found[2] = {};
        Check(cudaMemset(sums, 0, sizeof found), "memory");
        ReadBulk<true><<<blocks_, 32 * producers, 128 << 10>>>(data_, pieces, static_cast<uint32_t>(piece),
                                                               (128 << 10) / piece, copies, sums);
        SumWords<<<blocks_, 256>>>(reinterpret_cast<const uint32_t*>(data_), pieces * piece / 4, sums + 1);
        Check(cudaGetLastError(), "bulk copies");
        Check(cudaMemcpy(found, sums, sizeof found, cudaMemcpyDeviceToHost), "bulk copies");
        if (found[0] == found[1]) continue;
        std::fprintf(stderr, "bulk copies of %d bytes brought other words than were there: sum %u, not %u\n",
                     piece, found[0], found[1]);
        std::exit(1);
      }
    }
    Check(cudaFree(memory), "memory");
  }

 private:
  struct Case {
    const char* from;
    int64_t bytes;
    int laps;
    int in_flight;
    int piece;
  };
  template <typename Measure>
  void Each(Measure measure) {
    for (const bool cached : {false, true}) {
      for (const int in_flight : {32 << 10, 64 << 10, 96 << 10, 128 << 10, 160 << 10, 192 << 10}) {
        for (const int piece : {2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10}) {
          measure(cached ? Case{"l2", cached_bytes_, kCachedLaps, in_flight, piece}
                         : Case{"memory", kMemoryBytes, 1, in_flight, piece});
        }
      }
    }
  }
  // `bytes`: of a block.
  void Report(const Case& c, const char* by, int producers, int64_t bytes, double us) {
    std::printf(
        "%s\n    {\"from\": \"%s\", \"by\": \"%s\", \"warps\": %d, \"copy_bytes\": %d, "
        "\"bytes_in_flight_per_sm\": %d, \"gb_per_s\": %.1f}",
        first_ ? "" : ",", c.from, by, producers, c.piece, c.in_flight,
        static_cast<double>(bytes) * blocks_ / us / 1000.0);
    first_ = false;
  }

  Bench* bench_;
  int blocks_;
  int max_;  // bytes of shared memory
  int64_t cached_bytes_;
  unsigned char* data_;
  bool first_ = true;
};

}  // namespace

void MeasureReads(Bench& bench, const cudaDeviceProp& device) {
  std::printf("  \"reads\": [");
  Reads(&bench, device).Async();
  std::printf("\n  ],\n");
}

void MeasureBulkReads(Bench& bench, const cudaDeviceProp& device) {
  if (device.major < 9) {
    std::printf("  \"bulk_reads\": \"not available: compute capability %d.%d has no cp.async.bulk\",\n",
                device.major, device.minor);
    return;
  }
  Reads reads(&bench, device);
  reads.CheckBulk();
  std::printf("  \"bulk_reads\": [");
  reads.Bulk();
  std::printf("\n  ],\n");
}

}  // namespace espalier::ceilings
