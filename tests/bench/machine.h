#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/base/result.h"

namespace espalier::bench {

// The commit that this program was built from; "-modified" at its end: plus changes that were not committed.
// "unknown" outside a git checkout.
const char* BuildCommit();

// What the machine can do at most, measured by this program with the kernels and threads of the run.
struct Peak {
  double read_bytes_per_s = 0.0;
  double bf16_flop_per_s = 0.0;
  double int8_op_per_s = 0.0;  // GEMM with int8 weights; 0: no such
};

// Errors name the flag at fault: isa, threads, peak-buffer-bytes.
Result<Peak> MeasurePeak(const std::string& isa, int32_t threads, int64_t buffer_bytes);

// Name of the processor that this program runs on.
std::string CpuName();

// Memory that new allocations can have without anything else giving way; nothing where the system does not
// say.
std::optional<int64_t> AvailableMemoryBytes();

// Processor time that a process of this machine has taken, all threads; nothing where there is no such
// process.
std::optional<double> ProcessCpuSeconds(int32_t process);

// How many threads wanted to run in the last minute, on average; 0 where the system does not say. More than
// this program's own: other programs take time from it, and its figures say less about the machine.
double LoadAverage();

// The least time that moving `bytes` and computing `flop` can take on a machine of this peak: the longer of
// the two. GEMM of fp32 operands has no measured peak: there only memory counts.
double RooflineUs(const Peak& peak, bool bf16_operands, double bytes, double flop);

}  // namespace espalier::bench
