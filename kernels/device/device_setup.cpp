#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "kernels/base/convert.h"
#include "kernels/device/device_backend.h"
#include "kernels/device/shared_layouts.h"

namespace espalier::device {

namespace {

constexpr int64_t kPadding = 16;
constexpr int32_t kMaxRows = 1 << 20;
constexpr int32_t kHighestTile = 32;  // packed rows
constexpr int32_t kMaxHeadDim = 512;

}  // namespace

int32_t RowBucket(int32_t rows, int32_t max_rows) {
  const int64_t step = rows <= 128 ? 16 : 64;
  return static_cast<int32_t>(std::min(RoundUpTo(rows, step), RoundUpTo(max_rows, kPadding)));
}

Status DeviceBackend::Check(const BackendOptions& options) {
  if (options.dtype != DType::kBFloat16 && options.dtype != DType::kFloat32) {
    return Error{ErrorCode::kUnimplemented, "dtype", "the cuda backend computes in bfloat16 or float32"};
  }
  if (options.weights != WeightType::kDType) {
    return Error{ErrorCode::kUnimplemented, "weights",
                 "the cuda backend has no int8 weights yet; the cpu backend has"};
  }
  if (options.max_rows <= 0 || options.max_rows > kMaxRows) {
    return InvalidArgument("max_rows", "must lie in [1, " + std::to_string(kMaxRows) + "]");
  }
  return {};
}

Result<std::unique_ptr<Backend>> DeviceBackend::Create(const BackendOptions& options,
                                                       std::unique_ptr<Device> device) {
  if (Status status = Check(options); !status.ok()) return status.error();
  std::unique_ptr<DeviceBackend> backend(new DeviceBackend(options, std::move(device)));
  if (Status status = backend->AllocateOwn(); !status.ok()) return status.error();
  return std::unique_ptr<Backend>(std::move(backend));
}

DeviceBackend::DeviceBackend(const BackendOptions& options, std::unique_ptr<Device> device)
    : device_(std::move(device)),
      max_rows_(options.max_rows),
      padded_max_rows_(static_cast<int32_t>(RoundUpTo(options.max_rows, kPadding))) {
  info_.name = "cuda";
  info_.device = device_->info().name;
  info_.isa = device_->info().architecture;
  info_.dtype = options.dtype;
  info_.steps_in_flight = kStepsInFlight;
  info_.plan.max_tile_rows = kHighestTile;
  info_.plan.processors = device_->info().processors;
  info_.head_dim_multiple = kKeyChunk;
}

DeviceBackend::~DeviceBackend() { device_->Synchronize(); }

Status DeviceBackend::AllocateOwn() {
  Result<DeviceMemory> staging =
      DeviceMemory::AllocateHost(device_.get(), 2 * kStagingBytes, "staging of weights");
  if (!staging) return staging.error();
  staging_ = std::move(*staging);
  if (!ReserveTokens(1)) return device_->status();
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].first_event = static_cast<int32_t>(i) * (Device::kEvents / (kStepsInFlight + 1));
  }
  return device_->status();
}

Status DeviceBackend::UploadRows(const HostTensor& part, int64_t padded_cols, std::byte* to) {
  const int64_t row_bytes = padded_cols * element_bytes();
  const int64_t rows_at_once = kStagingBytes / row_bytes;
  if (rows_at_once == 0) {
    return Error{ErrorCode::kUnimplemented, "model",
                 "the cuda backend takes matrices of at most " +
                     std::to_string(kStagingBytes / element_bytes()) + " columns"};
  }
  // The last events are those of the two halves.
  constexpr int32_t kStagingEvent = Device::kEvents - 2;
  std::vector<float> wide(static_cast<size_t>(part.cols));
  const auto source_bytes = part.cols * static_cast<int64_t>(SizeOf(part.dtype));
  for (int64_t first = 0; first < part.rows; first += rows_at_once) {
    const auto half = static_cast<int32_t>(staged_ % 2);
    std::byte* host = staging_.data() + half * kStagingBytes;
    if (staged_ >= 2) device_->WaitFor(kStagingEvent + half);
    const int64_t rows = std::min(rows_at_once, part.rows - first);
    for (int64_t row = 0; row < rows; ++row) {
      const std::byte* from = static_cast<const std::byte*>(part.data) + (first + row) * source_bytes;
      std::byte* target = host + row * row_bytes;
      std::memset(target, 0, static_cast<size_t>(row_bytes));
      if (part.dtype == info_.dtype) {
        std::memcpy(target, from, static_cast<size_t>(source_bytes));
      } else if (bf16()) {
        ConvertToFloat(from, part.dtype, part.cols, wide.data());
        std::transform(wide.begin(), wide.end(), reinterpret_cast<bf16_t*>(target), ToBFloat16);
      } else {
        ConvertToFloat(from, part.dtype, part.cols, reinterpret_cast<float*>(target));
      }
    }
    device_->Upload(to + first * row_bytes, host, rows * row_bytes);
    device_->Record(kStagingEvent + half);
    ++staged_;
  }
  return device_->status();
}

Result<MatrixId> DeviceBackend::AddMatrix(std::span<const HostTensor> parts) {
  const Result<MatrixShape> shape = StackedShape(parts);
  if (!shape) return shape.error();
  const auto [rows, cols] = *shape;
  if (std::max(rows, cols) > std::numeric_limits<int32_t>::max() - kPadding) {
    return Error{ErrorCode::kUnimplemented, "model",
                 "the cuda backend takes matrices of less than 2^31 rows and columns"};
  }
  Matrix matrix;
  matrix.rows = static_cast<int32_t>(rows);
  matrix.cols = static_cast<int32_t>(cols);
  matrix.padded_rows = static_cast<int32_t>(RoundUpTo(rows, kPadding));
  matrix.padded_cols = static_cast<int32_t>(RoundUpTo(cols, kPadding));
  const int64_t row_bytes = matrix.padded_cols * element_bytes();
  Result<DeviceMemory> memory =
      DeviceMemory::Allocate(device_.get(), matrix.padded_rows * row_bytes, "model", "a matrix of weights");
  if (!memory) return memory.error();
  matrix.values = std::move(*memory);
  std::byte* to = matrix.values.data();
  for (const HostTensor& part : parts) {
    if (Status status = UploadRows(part, matrix.padded_cols, to); !status.ok()) return status.error();
    to += part.rows * row_bytes;
  }
  device_->Fill(to, 0, (matrix.padded_rows - rows) * row_bytes);
  if (!device_->status().ok()) return device_->status().error();
  return Append<MatrixId>(&matrices_, std::move(matrix));
}

Result<DeviceMemory> DeviceBackend::UploadFloats(std::span<const float> values) {
  const auto bytes = static_cast<int64_t>(values.size_bytes());
  Result<DeviceMemory> memory = DeviceMemory::Allocate(device_.get(), bytes, "model", "a table of the model");
  if (!memory) return memory.error();
  device_->Upload(memory->data(), values.data(), bytes);
  device_->Synchronize();
  if (!device_->status().ok()) return device_->status().error();
  return memory;
}

Result<VectorId> DeviceBackend::AddVector(std::span<const HostTensor> parts) {
  const Result<std::vector<float>> values = StackedVector(parts);
  if (!values) return values.error();
  Result<DeviceMemory> memory = UploadFloats(*values);
  if (!memory) return memory.error();
  return Append<VectorId>(&vectors_, Vector{std::move(*memory), static_cast<int32_t>(values->size())});
}

Result<RotaryId> DeviceBackend::AddRotary(std::span<const float> inv_freq, int32_t max_positions) {
  const Result<RotaryShape> shape = RotaryShape::Of(inv_freq, max_positions);
  if (!shape) return shape.error();
  std::vector<float> angles(static_cast<size_t>(shape->floats()));
  shape->Fill(inv_freq, SerialFor, angles.data());
  Result<DeviceMemory> memory = UploadFloats(angles);
  if (!memory) return memory.error();
  return Append<RotaryId>(&rotaries_, Rotary{*shape, std::move(*memory)});
}

Result<KvId> DeviceBackend::AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) {
  if (Status status = CheckKvPool(shape, blocks, block_tokens); !status.ok()) return status.error();
  if (Status status = CheckKvTypes(shape, kMaxHeadDim, "cuda"); !status.ok()) return status.error();
  const auto stored_dim = static_cast<int32_t>(RoundUpTo(shape.head_dim, kKeyChunk));
  const int32_t heads = std::min(shape.group(), kMaxHeadsPerTile);
  int32_t packed_rows = kHighestTile;
  while (packed_rows > 8 && AttentionSharedBytes(packed_rows, stored_dim) > device_->info().shared_bytes) {
    packed_rows /= 2;
  }
  if (packed_rows < heads || AttentionSharedBytes(packed_rows, stored_dim) > device_->info().shared_bytes) {
    return Error{ErrorCode::kUnimplemented, "head_dim",
                 "this device has too little shared memory for " + std::to_string(heads) +
                     " query heads of " + std::to_string(shape.head_dim) + " to a KV head"};
  }
  KvPool pool;
  pool.shape = shape;
  pool.layout = {shape.layers, shape.kv_heads, blocks, block_tokens, stored_dim};
  const Result<int64_t> bytes = KvPoolBytes(shape, blocks, pool.layout.BlockElements());
  if (!bytes) return bytes.error();
  Result<DeviceMemory> memory =
      DeviceMemory::Allocate(device_.get(), *bytes, "kv-cache-bytes", "the KV pool");
  if (!memory) return memory.error();
  pool.values = std::move(*memory);
  device_->Fill(pool.values.data(), 0, pool.values.bytes());
  if (!device_->status().ok()) return device_->status().error();
  if (Status status = ReserveBeside(pool); !status.ok()) return status.error();
  info_.plan.max_tile_rows = std::clamp(packed_rows / heads, 1, info_.plan.max_tile_rows);
  return Append<KvId>(&kv_pools_, std::move(pool));
}

Result<ActivationId> DeviceBackend::AddActivation(ActivationKind kind, int64_t cols) {
  if (cols <= 0 || cols > std::numeric_limits<int32_t>::max() - kPadding) {
    return InvalidArgument("", "an activation needs columns, fewer than 2^31");
  }
  Activation activation;
  activation.kind = kind;
  activation.bf16 = kind == ActivationKind::kOperand && bf16();
  activation.cols = static_cast<int32_t>(cols);
  activation.stride = RoundUpTo(cols, kPadding);
  const int64_t bytes = padded_max_rows_ * activation.format().row_bytes();
  Result<DeviceMemory> memory =
      DeviceMemory::Allocate(device_.get(), bytes, "max_rows", "a buffer of activations");
  if (!memory) return memory.error();
  activation.values = std::move(*memory);
  device_->Fill(activation.values.data(), 0, bytes);
  if (!device_->status().ok()) return device_->status().error();
  return Append<ActivationId>(&activations_, std::move(activation));
}

}  // namespace espalier::device
