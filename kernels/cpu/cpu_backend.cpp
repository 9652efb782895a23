#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
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
  a.rows = static_cast<int64_t>(values.size()) / a.cols;
  ESPALIER_CHECK(a.rows * a.cols == static_cast<int64_t>(values.size()) && a.rows <= max_rows_);
  for (int64_t row = 0; row < a.rows; ++row) {
    const float* in = values.data() + row * a.cols;
    if (a.bf16) {
      std::transform(in, in + a.cols, static_cast<bf16_t*>(a.Row(row)), ToBFloat16);
    } else {
      std::copy_n(in, a.cols, a.Floats(row));
    }
  }
}

std::vector<float> CpuBackend::ReadActivation(ActivationId activation) {
  const Activation& a = At(activations_, activation);
  std::vector<float> values(static_cast<size_t>(a.rows * a.cols));
  for (int64_t row = 0; row < a.rows; ++row) {
    float* out = values.data() + row * a.cols;
    if (a.bf16) {
      const auto* in = static_cast<const bf16_t*>(a.Row(row));
      std::transform(in, in + a.cols, out, ToFloat);
    } else {
      std::copy_n(a.Floats(row), a.cols, out);
    }
  }
  return values;
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
