#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/device/device.h"
#include "tests/kernels/host_emulator_block.h"

namespace espalier::device {

struct HostEmulatorOptions {
  ThreadOrder order = ThreadOrder::kAscending;
  int64_t memory_bytes = int64_t{1} << 32;  // Allocate refuses beyond it
  int64_t shared_bytes = 160 << 10;         // of a block of threads
  int32_t processors = 8;
  int64_t library_bytes = 0;  // DeviceInfo's; the first GEMM takes them, and fails where they are not there
};

// The device on the CPU: the kernels run from the same step descriptor, a block after the other and
// its threads in turn; GEMM is plain loops. Memory begins as NaN. For tests.
std::unique_ptr<Device> CreateHostEmulator(const HostEmulatorOptions& options);
// The cuda backend over it.
Result<std::unique_ptr<Backend>> CreateHostEmulatorBackend(const BackendOptions& options,
                                                           const HostEmulatorOptions& emulator = {});

}  // namespace espalier::device
