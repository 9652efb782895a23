#include "kernels/backend.h"

#include "kernels/ref/ref_backend.h"
#ifdef ESPALIER_HAVE_CPU_BACKEND
#include "kernels/cpu/cpu_backend.h"
#endif
#ifdef ESPALIER_HAVE_CUDA_BACKEND
#include "kernels/cuda/cuda_backend.h"
#endif

namespace espalier {

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
