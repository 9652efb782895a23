#pragma once

#include "kernels/base/result.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/thread_pool.h"

namespace espalier::cpu {

// What this machine can do at most with these kernels and threads, measured: what benchmarks compare with.
struct CpuPeaks {
  double read_bytes_per_second = 0.0;  // all threads read memory far beyond the caches, huge pages
  double bf16_flop_per_second = 0.0;   // GEMM with bf16 weights in L1, register tiles; multiply-add = 2
  double int8_op_per_second = 0.0;     // the same with int8 weights and operands
};

// Takes about half a second and `buffer_bytes` of memory. Error: no memory.
Result<CpuPeaks> MeasurePeaks(const KernelTable& kernels, ThreadPool* pool,
                              int64_t buffer_bytes = int64_t{512} << 20);

}  // namespace espalier::cpu
