#include "kernels/cpu/cpu_backend.h"

#include <string>
#include <utility>

#include "kernels/cpu/cpu_backend_impl.h"
#include "kernels/cpu/cpu_features.h"

namespace espalier::cpu {

namespace {

constexpr int32_t kMaxThreads = 1024;
constexpr int32_t kTileRows = 64;  // of a plan's tile before the GQA group is known

}  // namespace

Result<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options) {
  if (options.dtype != DType::kBFloat16 && options.dtype != DType::kFloat32) {
    return Error{ErrorCode::kUnimplemented, "dtype", "the cpu backend computes in bfloat16 or float32"};
  }
  if (options.max_rows <= 0) return InvalidArgument("max_rows", "must be positive");
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return InvalidArgument("threads",
                           "must lie in [0, " + std::to_string(kMaxThreads) + "], 0 for every core");
  }
  Result<const KernelTable*> kernels = ChooseKernels(options.isa);
  if (!kernels) return kernels.error();
  Result<std::unique_ptr<ThreadPool>> pool =
      ThreadPool::Create(options.threads == 0 ? AvailableCores() : options.threads);
  if (!pool) return pool.error();
  return std::unique_ptr<Backend>(std::make_unique<CpuBackend>(options, **kernels, std::move(*pool)));
}

CpuBackend::CpuBackend(const BackendOptions& options, const KernelTable& kernels,
                       std::unique_ptr<ThreadPool> pool)
    : kernels_(kernels), pool_(std::move(pool)), max_rows_(options.max_rows) {
  info_.name = "cpu";
  info_.device = ProcessorName();
  info_.isa = kernels.isa;
  info_.dtype = options.dtype;
  info_.weights = options.weights;
  info_.threads = pool_->threads();
  info_.fallback = options.fallback;
  info_.steps_in_flight = 1;
  info_.plan.max_tile_rows = kTileRows;
  info_.plan.processors = pool_->threads();
  info_.head_dim_multiple = kLanes;
  scratch_.resize(static_cast<size_t>(pool_->threads()));
}

void CpuBackend::WriteActivation(ActivationId activation, std::span<const float> values) {
  Activation& a = At(activations_, activation);
  a.rows = WholeRows(values, a.cols, max_rows_);
  StoreRows(values, a.format(), a.values.data());
}

std::vector<float> CpuBackend::ReadActivation(ActivationId activation) {
  const Activation& a = At(activations_, activation);
  return LoadRows(a.values.data(), a.rows, a.format());
}

ParallelFor CpuBackend::Parallel() {
  return [this](int64_t count, const std::function<void(int64_t)>& body) {
    pool_->ParallelFor(count, 1, [&](int64_t i, int32_t) { body(i); });
  };
}

CpuBackend::Activation& CpuBackend::Output(ActivationId id, int64_t rows, int64_t cols) {
  Activation& out = At(activations_, id);
  ESPALIER_CHECK(out.cols == cols && rows <= max_rows_);
  out.rows = rows;
  return out;
}

const CpuBackend::Activation& CpuBackend::Floats(ActivationId id) {
  const Activation& in = At(activations_, id);
  ESPALIER_CHECK_MSG(!in.bf16, "this operation reads a kResidual activation");
  return in;
}

}  // namespace espalier::cpu
