#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <algorithm>

namespace espalier::cuda {

namespace {

Error NoLibrary(const std::string& why) {
  return {ErrorCode::kUnimplemented, "backend", "the cuda backend needs cuBLASLt: " + why};
}

Result<CublasLt> OpenLibrary() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* reason = library == nullptr ? dlerror() : nullptr;
  const std::string message = reason == nullptr ? name : reason;
  if (library == nullptr) {
    library = dlopen((std::string(ESPALIER_CUDA_LIBRARY_DIR) + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) return NoLibrary(message);

  CublasLt functions;
  std::string missing;
  const auto find = [&](auto* function, const char* symbol) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, symbol));
    if (*function == nullptr) missing = symbol;
  };
  find(&functions.create, "cublasLtCreate");
  find(&functions.destroy, "cublasLtDestroy");
  find(&functions.matmul, "cublasLtMatmul");
  find(&functions.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(&functions.version, "cublasLtGetVersion");
  // cublasLt.h wraps these in inline functions of the same names without Init_internal.
  find(&functions.desc_create, "cublasLtMatmulDescCreate");
  find(&functions.desc_destroy, "cublasLtMatmulDescDestroy");
  find(&functions.desc_set, "cublasLtMatmulDescSetAttribute");
  find(&functions.layout_create, "cublasLtMatrixLayoutCreate");
  find(&functions.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(&functions.preference_create, "cublasLtMatmulPreferenceCreate");
  find(&functions.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(&functions.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  if (!missing.empty()) return NoLibrary(name + " has no " + missing);
  return functions;
}

Status Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return Error{
      ErrorCode::kUnavailable, "",
      std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(static_cast<int>(status))};
}

}  // namespace

Result<const CublasLt*> LoadCublasLt() {
  static const Result<CublasLt> library = OpenLibrary();
  if (!library) return library.error();
  return &*library;
}

Result<std::unique_ptr<CublasLtGemm>> CublasLtGemm::Create(void* workspace) {
  const Result<const CublasLt*> library = LoadCublasLt();
  if (!library) return library.error();
  std::unique_ptr<CublasLtGemm> gemm(new CublasLtGemm(**library, workspace));
  if (Status status = Check((*library)->create(&gemm->handle_), "its start"); !status.ok()) {
    Error error = status.error();
    error.field = "backend";
    return error;
  }
  return gemm;
}

CublasLtGemm::~CublasLtGemm() {
  for (auto& [shape, choice] : choices_) Destroy(&choice);
  if (handle_ != nullptr) library_.destroy(handle_);
}

void CublasLtGemm::Destroy(Choice* choice) {
  if (choice->desc != nullptr) library_.desc_destroy(choice->desc);
  for (cublasLtMatrixLayout_t layout : {choice->w, choice->a, choice->c}) {
    if (layout != nullptr) library_.layout_destroy(layout);
  }
}

// cuBLASLt's matrices are column-major. Row-major c[rows, n] is column-major c^T [n, rows] = w^T-transposed *
// a^T: w lies there as [k, n], to be transposed, and a as [k, rows].
Result<const CublasLtGemm::Choice*> CublasLtGemm::Choose(const device::GemmArgs& args) {
  const Shape shape = {args.rows, args.n, args.k, args.a_stride, args.c_stride, args.bf16};
  const auto found = choices_.find(shape);
  if (found != choices_.end()) return &found->second;
  const cudaDataType_t type = args.bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const auto k = static_cast<uint64_t>(args.k);
  const auto n = static_cast<uint64_t>(args.n);
  const auto rows = static_cast<uint64_t>(args.rows);
  const cublasOperation_t transpose = CUBLAS_OP_T;
  Choice choice;
  Status status = Check(library_.desc_create(&choice.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
  if (status.ok()) {
    status = Check(library_.desc_set(choice.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose),
                   "a description");
  }
  if (status.ok()) status = Check(library_.layout_create(&choice.w, type, k, n, args.k), "a layout");
  if (status.ok())
    status = Check(library_.layout_create(&choice.a, type, k, rows, args.a_stride), "a layout");
  if (status.ok())
    status = Check(library_.layout_create(&choice.c, CUDA_R_32F, n, rows, args.c_stride), "a layout");
  if (status.ok()) status = AskHeuristic(&choice);
  if (!status.ok()) {
    Destroy(&choice);
    Error error = status.error();
    error.message += " for a GEMM of " + std::to_string(args.rows) + " x " + std::to_string(args.n) + " x " +
                     std::to_string(args.k);
    return error;
  }
  return &choices_.emplace(shape, choice).first->second;
}

Status CublasLtGemm::AskHeuristic(Choice* choice) {
  cublasLtMatmulPreference_t preference = nullptr;
  Status status = Check(library_.preference_create(&preference), "a preference");
  if (!status.ok()) return status;
  const auto bytes = static_cast<uint64_t>(kWorkspaceBytes);
  status = Check(
      library_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
      "a preference");
  cublasLtMatmulHeuristicResult_t result = {};
  int results = 0;
  if (status.ok()) {
    status = Check(library_.heuristic(handle_, choice->desc, choice->w, choice->a, choice->c, choice->c,
                                      preference, 1, &result, &results),
                   "the choice of an algorithm");
  }
  library_.preference_destroy(preference);
  if (!status.ok()) return status;
  if (results == 0) return Check(CUBLAS_STATUS_NOT_SUPPORTED, "the choice of an algorithm");
  choice->algorithm = result.algo;
  return {};
}

Status CublasLtGemm::Run(const device::GemmArgs& args, cudaStream_t stream) {
  const Result<const Choice*> choice = Choose(args);
  if (!choice) return choice.error();
  const Choice& c = **choice;
  const float alpha = 1.0F;
  const float beta = args.accumulate ? 1.0F : 0.0F;
  return Check(library_.matmul(handle_, c.desc, &alpha, args.w, c.w, args.a, c.a, &beta, args.c, c.c, args.c,
                               c.c, &c.algorithm, workspace_, static_cast<size_t>(kWorkspaceBytes), stream),
               "a GEMM");
}

}  // namespace espalier::cuda
