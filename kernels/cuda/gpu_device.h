#pragma once

#include <memory>

#include "kernels/cuda/device.h"

namespace espalier::cuda {

// The first GPU. Errors name the flag backend: no driver, no device, one older than compute capability 8.0,
// one that this program has no code for, no cuBLASLt.
Result<std::unique_ptr<Device>> OpenGpu();

}  // namespace espalier::cuda
