#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/backend_parts.h"
#include "kernels/base/convert.h"
#include "kernels/base/int8.h"

namespace espalier::cpu {

namespace {

constexpr int32_t kMaxPanelsPerBlock = 16;  // 256 n: the C of 64 rows stays in L2 together with the weights
constexpr int32_t kTasksPerThread = 8;  // blocks a thread should have, so that none waits long at the end,
constexpr int32_t kTilePanels = 4;      // but as long as each thread has one, the panels of a register tile
constexpr int64_t kMinPartRows = 6;     // of a part of a GEMM's rows: those of a register tile

// Finds the part and row within it of a row of the stacked matrix.
const std::byte* RowData(std::span<const HostTensor> parts, int64_t row, DType* dtype) {
  for (const HostTensor& part : parts) {
    if (row < part.rows) {
      *dtype = part.dtype;
      return static_cast<const std::byte*>(part.data) +
             row * part.cols * static_cast<int64_t>(SizeOf(part.dtype));
    }
    row -= part.rows;
  }
  return nullptr;
}

}  // namespace

Result<PackedMatrix> PackedMatrix::Pack(std::span<const HostTensor> parts, DType dtype, WeightType weights,
                                        ThreadPool* pool) {
  PackedMatrix matrix;
  matrix.dtype_ = dtype;
  matrix.weights_ = weights;
  const Result<MatrixShape> shape = StackedShape(parts);
  if (!shape) return shape.error();
  matrix.rows_ = shape->rows;
  matrix.cols_ = shape->cols;
  if (matrix.cols_ > INT32_MAX / 2 || matrix.rows_ > INT32_MAX / 2) {
    return InvalidArgument("", "a matrix of more than 2^30 rows or columns");
  }
  matrix.k_padded_ = RoundUp(matrix.cols_, 32);
  matrix.panels_ = static_cast<int32_t>(RoundUp(matrix.rows_, kLanes) / kLanes);
  const int32_t tile = std::min(kTilePanels, matrix.panels_ / pool->threads());
  matrix.panels_per_block_ =
      std::clamp(matrix.panels_ / (kTasksPerThread * pool->threads()), std::max(tile, 1), kMaxPanelsPerBlock);
  const int64_t elements = matrix.k_padded_ * matrix.panels_ * kLanes;
  const auto element_bytes = matrix.int8() ? int64_t{1} : static_cast<int64_t>(SizeOf(dtype));
  Result<Buffer> buffer = Buffer::Allocate(elements * element_bytes, "model");
  if (!buffer) return buffer.error();
  matrix.buffer_ = std::move(*buffer);
  if (matrix.int8()) {
    Result<Buffer> scales =
        Buffer::Allocate(int64_t{matrix.panels_} * kLanes * static_cast<int64_t>(sizeof(float)), "model");
    if (!scales) return scales.error();
    matrix.scales_ = std::move(*scales);
  }
  std::atomic<bool> finite{true};
  pool->ParallelFor(matrix.panels_, 1, [&](int64_t panel, int32_t) {
    if (!matrix.int8()) {
      matrix.PackPanel(parts, static_cast<int32_t>(panel));
    } else if (!matrix.PackInt8Panel(parts, static_cast<int32_t>(panel))) {
      finite = false;
    }
  });
  if (!finite) return InvalidArgument("weights", kNotFiniteInt8);
  return matrix;
}

int64_t PackedMatrix::ElementOffset(int64_t k, int64_t lane) const {
  if (int8()) return (k / 4 * kLanes + lane) * 4 + k % 4;
  return dtype_ == DType::kFloat32 ? k * kLanes + lane : (k / 2 * kLanes + lane) * 2 + k % 2;
}

int64_t PackedMatrix::PanelOffset(int32_t panel, int64_t k) const {
  const int64_t first = panel / panels_per_block_ * panels_per_block_;
  const int64_t panels = std::min<int64_t>(panels_per_block_, panels_ - first);
  const int64_t chunk = std::min<int64_t>(kChunkK, k_padded_ - k);
  return (first * k_padded_ + k * panels + chunk * (panel - first)) * kLanes;
}

void PackedMatrix::PackPanel(std::span<const HostTensor> parts, int32_t panel) {
  const int64_t lanes = std::min<int64_t>(kLanes, rows_ - int64_t{panel} * kLanes);
  float values[kChunkK];
  for (int64_t lane = 0; lane < lanes; ++lane) {
    DType source_type = dtype_;
    const std::byte* source = RowData(parts, int64_t{panel} * kLanes + lane, &source_type);
    const auto source_bytes = static_cast<int64_t>(SizeOf(source_type));
    for (int64_t k = 0; k < cols_; k += kChunkK) {
      const int64_t length = std::min<int64_t>(kChunkK, cols_ - k);
      ConvertToFloat(source + k * source_bytes, source_type, length, values);
      const int64_t offset = PanelOffset(panel, k);
      if (dtype_ == DType::kFloat32) {
        float* out = buffer_.as<float>() + offset + lane;
        for (int64_t i = 0; i < length; ++i) out[i * kLanes] = values[i];
      } else {
        bf16_t* out = buffer_.as<bf16_t>() + offset;
        for (int64_t i = 0; i < length; ++i) out[ElementOffset(i, lane)] = ToBFloat16(values[i]);
      }
    }
  }
}

bool PackedMatrix::PackInt8Panel(std::span<const HostTensor> parts, int32_t panel) {
  const int64_t lanes = std::min<int64_t>(kLanes, rows_ - int64_t{panel} * kLanes);
  std::vector<float> values(static_cast<size_t>(cols_));
  std::vector<int8_t> q(values.size());
  bool finite = true;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t row = int64_t{panel} * kLanes + lane;
    DType source_type = dtype_;
    const std::byte* source = RowData(parts, row, &source_type);
    ConvertToFloat(source, source_type, cols_, values.data());
    const float scale = QuantizeInt8(values.data(), cols_, q.data());
    finite = finite && std::isfinite(scale);
    scales_.as<float>()[row] = scale;
    for (int64_t k = 0; k < cols_; k += kChunkK) {
      const int64_t length = std::min<int64_t>(kChunkK, cols_ - k);
      uint8_t* out = buffer_.as<uint8_t>() + PanelOffset(panel, k);
      for (int64_t i = 0; i < length; ++i) {
        out[ElementOffset(i, lane)] = static_cast<uint8_t>(q[static_cast<size_t>(k + i)] + kInt8Bias);
      }
    }
  }
  return finite;
}

int32_t PackedMatrix::RowParts(int64_t gemm_rows, int32_t threads) const {
  const int64_t enough = int64_t{kTasksPerThread} * threads;
  // Of the thread that has most, in rows of a block.
  const auto max_work = [&](int64_t parts) {
    return (blocks() * parts + threads - 1) / threads * ((gemm_rows + parts - 1) / parts);
  };
  int64_t best = 1;
  for (int64_t parts = 2; parts * kMinPartRows <= gemm_rows && blocks() * (parts - 1) < enough; ++parts) {
    if (32 * max_work(parts) < 31 * max_work(best)) best = parts;
  }
  return static_cast<int32_t>(best);
}

void PackedMatrix::ReadRow(int64_t row, float* out) const {
  ESPALIER_CHECK(row >= 0 && row < rows_);
  const auto panel = static_cast<int32_t>(row / kLanes);
  const int64_t lane = row % kLanes;
  for (int64_t k = 0; k < cols_; k += kChunkK) {
    const int64_t length = std::min<int64_t>(kChunkK, cols_ - k);
    const int64_t offset = PanelOffset(panel, k);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t element = offset + ElementOffset(i, lane);
      if (int8()) {
        out[k + i] = static_cast<float>(buffer_.as<uint8_t>()[element] - kInt8Bias) * scales()[row];
      } else {
        out[k + i] =
            dtype_ == DType::kFloat32 ? buffer_.as<float>()[element] : ToFloat(buffer_.as<bf16_t>()[element]);
      }
    }
  }
}

}  // namespace espalier::cpu
