#include "kernels/cuda/cuda_backend.h"

#include "kernels/cuda/gpu_device.h"
#include "kernels/device/device_backend.h"

namespace espalier::cuda {

Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  if (Status status = device::DeviceBackend::Check(options); !status.ok()) return status.error();
  Result<std::unique_ptr<device::Device>> device = OpenGpu();
  if (!device) return device.error();
  return device::DeviceBackend::Create(options, std::move(*device));
}

}  // namespace espalier::cuda
