#pragma once

#include <cuda_runtime.h>

#include "kernels/device/kernel_args.h"

namespace espalier::cuda {

// Puts the kernel of these arguments on the stream; nothing where it would have no blocks. Shapes, and what
// the arguments point to, were checked by the backend. Instantiated in ops/, one file for each kernel.
template <typename Args>
cudaError_t LaunchKernel(const Args& args, cudaStream_t stream);

// Whether this program has code for the current device.
cudaError_t ProbeKernel();

}  // namespace espalier::cuda
