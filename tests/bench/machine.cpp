#include "tests/bench/machine.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

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
  return Peak{peaks->read_bytes_per_second, peaks->bf16_flop_per_second, peaks->int8_op_per_second};
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

std::optional<double> ProcessCpuSeconds(int32_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // The second field, the program's name, may hold anything; user and system time are the 14th and 15th.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) fields >> skipped;
  double user = 0.0;
  double system = 0.0;
  if (!(fields >> user >> system)) return std::nullopt;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
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
