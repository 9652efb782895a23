#include <algorithm>
#include <utility>

#include "kernels/cpu/cpu_backend_impl.h"

namespace espalier::cpu {

namespace {

constexpr int32_t kTilePackedRows = 128;  // rows times GQA group: their scores of a segment stay in L2

// Costs are measured for pools of at least this: it takes as long as some steps of a small model.
constexpr int64_t kMeasuredPoolBytes = int64_t{128} << 20;

}  // namespace

Result<MatrixId> CpuBackend::AddMatrix(std::span<const HostTensor> parts) {
  return AddPacked(parts, info_.weights);
}

Result<MatrixId> CpuBackend::AddTable(std::span<const HostTensor> parts) {
  return AddPacked(parts, WeightType::kDType);
}

Result<MatrixId> CpuBackend::AddPacked(std::span<const HostTensor> parts, WeightType weights) {
  Result<PackedMatrix> matrix = PackedMatrix::Pack(parts, info_.dtype, weights, pool_.get());
  if (!matrix) return matrix.error();
  return Append<MatrixId>(&matrices_, std::move(*matrix));
}

Result<VectorId> CpuBackend::AddVector(std::span<const HostTensor> parts) {
  const Result<std::vector<float>> values = StackedVector(parts);
  if (!values) return values.error();
  Vector vector;
  vector.cols = static_cast<int64_t>(values->size());
  Result<Buffer> buffer =
      Buffer::Allocate(RoundUp(vector.cols, kLanes) * static_cast<int64_t>(sizeof(float)), "model");
  if (!buffer) return buffer.error();
  vector.values = std::move(*buffer);
  std::copy(values->begin(), values->end(), vector.values.as<float>());
  return Append<VectorId>(&vectors_, std::move(vector));
}

Result<RotaryId> CpuBackend::AddRotary(std::span<const float> inv_freq, int32_t max_positions) {
  const Result<RotaryShape> shape = RotaryShape::Of(inv_freq, max_positions);
  if (!shape) return shape.error();
  Result<Buffer> buffer = Buffer::Allocate(shape->floats() * static_cast<int64_t>(sizeof(float)), "model");
  if (!buffer) return buffer.error();
  shape->Fill(inv_freq, Parallel(), buffer->as<float>());
  return Append<RotaryId>(&rotaries_, Rotary{*shape, std::move(*buffer)});
}

Result<KvId> CpuBackend::AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) {
  Result<KvPool> kv = KvPool::Create(shape, blocks, block_tokens);
  if (!kv) return kv.error();
  info_.plan.max_tile_rows = std::clamp(kTilePackedRows / shape.group(), 1, info_.plan.max_tile_rows);
  const int64_t pool_bytes = shape.KvBytesPerTokenLayer() * shape.layers * blocks * block_tokens;
  if (pool_bytes >= kMeasuredPoolBytes) info_.plan.costs = MeasureCosts(shape, block_tokens);
  return Append<KvId>(&kv_pools_, std::move(*kv));
}

Result<ActivationId> CpuBackend::AddActivation(ActivationKind kind, int64_t cols) {
  if (cols <= 0) return InvalidArgument("", "an activation needs columns");
  Activation activation;
  // int8 operands are made from fp32 when a GEMM needs them.
  activation.bf16 = kind == ActivationKind::kOperand && info_.dtype == DType::kBFloat16 &&
                    info_.weights == WeightType::kDType && kernels_.bf16_operands;
  activation.cols = cols;
  const int64_t line = activation.bf16 ? 32 : 16;  // elements
  activation.stride = (RoundUp(cols, line) / line | 1) * line;
  const int64_t bytes = max_rows_ * activation.stride * (64 / line);
  Result<Buffer> buffer = Buffer::Allocate(bytes, "max_rows");
  if (!buffer) return buffer.error();
  activation.values = std::move(*buffer);
  return Append<ActivationId>(&activations_, std::move(activation));
}

}  // namespace espalier::cpu
