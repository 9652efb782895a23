#include "kernels/cuda/gpu_device.h"

#include "tests/support/catch.h"

// Machines that the cuda backend cannot use: the error names what each lacks.
namespace espalier::test {

namespace {

void CheckRefused(const Error& error, const std::string& message) {
  CHECK(error.code == ErrorCode::kUnimplemented);
  CHECK(error.field == "backend");
  CHECK(error.message == message);
}

}  // namespace

TEST_CASE("The error says whether there is no driver, an old one, or no device") {
  const std::string reason = "no CUDA-capable device is detected (cudaErrorNoDevice)";
  CheckRefused(cuda::NoDevice(0, 13000, "anything"), "no NVIDIA driver is installed here");
  CheckRefused(cuda::NoDevice(12020, 13000, "anything"),
               "the NVIDIA driver is for CUDA 12.2, this program needs one for CUDA 13.0 or later");
  CheckRefused(cuda::NoDevice(13000, 13010, reason), "no usable NVIDIA device: " + reason);
  CheckRefused(cuda::NoDevice(13020, 13000, reason), "no usable NVIDIA device: " + reason);
}

TEST_CASE("A device older than compute capability 8.0 is refused by name") {
  CheckRefused(cuda::CheckCapability("Tesla T4", 7, 5).error(),
               "Tesla T4 has compute capability 7.5, the cuda backend needs 8.0 or later");
  for (const auto& [major, minor] : {std::pair(8, 0), std::pair(8, 9), std::pair(9, 0), std::pair(12, 0)}) {
    CHECK(cuda::CheckCapability("newer", major, minor).ok());
  }
}

}  // namespace espalier::test
