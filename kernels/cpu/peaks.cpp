#include "kernels/cpu/peaks.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/cpu/memory.h"

namespace espalier::cpu {

namespace {

constexpr int kRepetitions = 5;             // the fastest counts
constexpr int64_t kPieceBytes = 1 << 20;    // read at a time
constexpr int64_t kMultiplyAdds = 1 << 30;  // some milliseconds

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double MeasureReading(const KernelTable& kernels, ThreadPool* pool, const Buffer& buffer) {
  const int64_t pieces = buffer.bytes() / kPieceBytes;
  std::atomic<uint32_t> sink{0};
  double best = 0.0;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pool->ParallelFor(pieces, 8, [&](int64_t piece, int32_t) {
      sink ^= kernels.read_bytes(buffer.as<std::byte>() + piece * kPieceBytes, kPieceBytes);
    });
    best = std::max(best, static_cast<double>(pieces * kPieceBytes) / SecondsSince(begin));
  }
  return best;
}

double MeasureGemm(float (*gemm)(int64_t min, int64_t* done), ThreadPool* pool) {
  double best = 0.0;
  for (int i = 0; i < kRepetitions; ++i) {
    std::atomic<int64_t> total{0};
    const auto begin = std::chrono::steady_clock::now();
    pool->ParallelFor(int64_t{4} * pool->threads(), 1, [&](int64_t, int32_t) {
      int64_t multiply_adds = 0;
      gemm(kMultiplyAdds, &multiply_adds);
      total += multiply_adds;
    });
    best = std::max(best, 2.0 * static_cast<double>(total.load()) / SecondsSince(begin));
  }
  return best;
}

}  // namespace

Result<CpuPeaks> MeasurePeaks(const KernelTable& kernels, ThreadPool* pool, int64_t buffer_bytes) {
  Result<Buffer> buffer = Buffer::Allocate(std::max(buffer_bytes, kPieceBytes), "buffer_bytes");
  if (!buffer) return buffer.error();
  pool->ParallelFor(buffer->bytes() / kPieceBytes, 8, [&](int64_t piece, int32_t) {
    std::memset(buffer->as<std::byte>() + piece * kPieceBytes, 1, static_cast<size_t>(kPieceBytes));
  });
  CpuPeaks peaks;
  peaks.read_bytes_per_second = MeasureReading(kernels, pool, *buffer);
  peaks.bf16_flop_per_second = MeasureGemm(kernels.bf16_multiply_adds, pool);
  peaks.int8_op_per_second = MeasureGemm(kernels.int8_multiply_adds, pool);
  return peaks;
}

}  // namespace espalier::cpu
