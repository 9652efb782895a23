#include "kernels/backend.h"

#include <algorithm>

#include "kernels/ref/ref_backend.h"
#ifdef ESPALIER_HAVE_CPU_BACKEND
#include "kernels/cpu/cpu_backend.h"
#endif
#ifdef ESPALIER_HAVE_CUDA_BACKEND
#include "kernels/cuda/cuda_backend.h"
#endif

namespace espalier {

int32_t LogitRowsFrom(const StepInput& step, int32_t first_row) {
  const auto rows = static_cast<int32_t>(step.logit_rows.size());
  ESPALIER_CHECK(first_row >= 0 && first_row < rows && first_row % kMaxLogitRows == 0);
  return std::min(rows - first_row, kMaxLogitRows);
}

void SampleAll(Backend& backend, ActivationId in, MatrixId head, const StepInput& step) {
  const auto rows = static_cast<int32_t>(step.logit_rows.size());
  for (int32_t first_row = 0; first_row < rows; first_row += kMaxLogitRows) {
    backend.Logits(in, head, first_row);
    backend.Sample();
  }
}

Result<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.max_rows <= 0) return InvalidArgument("max_rows", "must be positive");
  if (options.name == "auto") {
    BackendOptions choice = options;
#ifdef ESPALIER_HAVE_CUDA_BACKEND
    choice.name = "cuda";
    auto backend = CreateBackend(choice);
    if (backend) return backend;
    choice.fallback = backend.error().message;
#else
    choice.fallback = "this program was built without the cuda backend";
#endif
    choice.name = "cpu";
    return CreateBackend(choice);
  }
  if (options.name == "ref") return ref::CreateRefBackend(options);
  if (options.name == "cpu") {
#ifdef ESPALIER_HAVE_CPU_BACKEND
    return cpu::CreateCpuBackend(options);
#else
    return Error{ErrorCode::kUnimplemented, "backend", "this program was built without the cpu backend"};
#endif
  }
  if (options.name == "cuda") {
#ifdef ESPALIER_HAVE_CUDA_BACKEND
    return cuda::CreateCudaBackend(options);
#else
    return Error{ErrorCode::kUnimplemented, "backend", "this program was built without the cuda backend"};
#endif
  }
  return InvalidArgument("backend", "unknown backend \"" + options.name + "\": auto, cpu, cuda or ref");
}

}  // namespace espalier
