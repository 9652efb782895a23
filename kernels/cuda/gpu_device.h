#pragma once

#include <memory>
#include <string>

#include "kernels/device/device.h"

namespace espalier::cuda {

// The first GPU. Errors name the flag backend: no driver, no device, one older than compute capability 8.0,
// one that this program has no code for, no cuBLASLt.
Result<std::unique_ptr<device::Device>> OpenGpu();

// What OpenGpu says, from what the runtime answers, apart from it for tests.
// No device was found: `driver` and `runtime` are CUDA versions as CUDA counts them (12020 is 12.2; driver 0:
// there is none), `reason` is the runtime's own words.
Error NoDevice(int driver, int runtime, const std::string& reason);
// Error: older than compute capability 8.0.
Status CheckCapability(const std::string& name, int major, int minor);

}  // namespace espalier::cuda
