#include "tests/bench/machine.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/peaks.h"
#include "kernels/cpu/thread_pool.h"

namespace espalier::bench {

Result<Peak> MeasurePeak(const std::string& isa, int32_t threads, int64_t buffer_bytes) {
  const auto kernels = cpu::ChooseKernels(isa);
  if (!kernels) return kernels.error();
  auto pool = cpu::ThreadPool::Create(threads);
  if (!pool) return pool.error();
  const auto peaks = cpu::MeasurePeaks(**kernels, pool->get(), buffer_bytes);
  if (!peaks) return Error{peaks.error().code, "peak-buffer-bytes", peaks.error().message};
  return Peak{peaks->read_bytes_per_second, peaks->bf16_flop_per_second};
}

std::string CpuName() { return cpu::ProcessorName(); }

std::optional<int64_t> AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return std::nullopt;
}

double LoadAverage() {
  double minute = 0.0;
  return getloadavg(&minute, 1) == 1 ? minute : 0.0;
}

double RooflineUs(const Peak& peak, bool bf16_operands, double bytes, double flop) {
  const double memory_us = bytes / peak.read_bytes_per_s * 1e6;
  return bf16_operands ? std::max(memory_us, flop / peak.bf16_flop_per_s * 1e6) : memory_us;
}

}  // namespace espalier::bench
