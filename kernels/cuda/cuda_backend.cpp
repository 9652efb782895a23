#include "kernels/cuda/cuda_backend.h"

#include "kernels/cuda/device_backend.h"
#include "kernels/cuda/gpu_device.h"

namespace espalier::cuda {

Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  if (Status status = DeviceBackend::Check(options); !status.ok()) return status.error();
  Result<std::unique_ptr<Device>> device = OpenGpu();
  if (!device) return device.error();
  return DeviceBackend::Create(options, std::move(*device));
}

}  // namespace espalier::cuda
