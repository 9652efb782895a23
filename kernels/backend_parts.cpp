#include "kernels/backend_parts.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/base/convert.h"
#include "kernels/base/rotary_angles.h"

namespace espalier {

Result<MatrixShape> StackedShape(std::span<const HostTensor> parts) {
  MatrixShape shape;
  for (const HostTensor& part : parts) {
    if (part.rows <= 0 || part.cols <= 0) return InvalidArgument("", "an empty matrix");
    if (shape.cols != 0 && part.cols != shape.cols)
      return InvalidArgument("", "stacked matrices differ in columns");
    shape.cols = part.cols;
    shape.rows += part.rows;
  }
  if (shape.rows == 0) return InvalidArgument("", "a matrix without parts");
  return shape;
}

Result<std::vector<float>> StackedVector(std::span<const HostTensor> parts) {
  std::vector<float> values;
  for (const HostTensor& part : parts) {
    if (part.rows != 1) return InvalidArgument("", "a vector has one row");
    values.resize(values.size() + static_cast<size_t>(part.cols));
    ConvertToFloat(part.data, part.dtype, part.cols, values.data() + values.size() - part.cols);
  }
  return values;
}

Result<RotaryShape> RotaryShape::Of(std::span<const float> inv_freq, int32_t max_positions) {
  if (inv_freq.empty() || max_positions <= 0) return InvalidArgument("", "empty rotary table");
  return RotaryShape{max_positions, static_cast<int32_t>(inv_freq.size())};
}

void RotaryShape::Fill(std::span<const float> inv_freq, const ParallelFor& parallel, float* table) const {
  constexpr int32_t kAtOnce = 256;  // positions
  const int64_t pieces = (int64_t{max_positions} + kAtOnce - 1) / kAtOnce;
  parallel(pieces, [&](int64_t piece) {
    const int64_t end = std::min<int64_t>(max_positions, (piece + 1) * kAtOnce);
    for (int64_t position = piece * kAtOnce; position < end; ++position)
      RotaryAngles(inv_freq, position, table + position * 2 * half);
  });
}

Status CheckKvPool(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) {
  if (block_tokens <= 0 || kSegmentTokens % block_tokens != 0) {
    return InvalidArgument("block_tokens", "must divide " + std::to_string(kSegmentTokens));
  }
  if (shape.layers <= 0 || shape.kv_heads <= 0 || shape.query_heads <= 0 ||
      shape.query_heads % shape.kv_heads != 0 || shape.head_dim <= 0 || blocks < 0) {
    return InvalidArgument("", "impossible attention shape");
  }
  return {};
}

Status CheckKvTypes(const AttentionShape& shape, int32_t max_head_dim, const char* backend) {
  const std::string the_backend = std::string("the ") + backend + " backend ";
  if (shape.head_dim % 2 != 0 || shape.head_dim > max_head_dim) {
    const bool bounded = max_head_dim < std::numeric_limits<int32_t>::max();
    return Error{ErrorCode::kUnimplemented, "head_dim",
                 the_backend + "needs an even number" +
                     (bounded ? " up to " + std::to_string(max_head_dim) : "") + ", not " +
                     std::to_string(shape.head_dim)};
  }
  if (shape.kv_dtype != DType::kBFloat16 && shape.kv_dtype != DType::kFloat32) {
    return Error{ErrorCode::kUnimplemented, "kv-dtype", the_backend + "keeps KV in bfloat16 or float32"};
  }
  return {};
}

Result<int64_t> KvPoolBytes(const AttentionShape& shape, int32_t blocks, int64_t block_elements) {
  const auto element_bytes = static_cast<int64_t>(SizeOf(shape.kv_dtype));
  const double estimate = 1.0 * shape.layers * shape.kv_heads * blocks * static_cast<double>(block_elements) *
                          static_cast<double>(element_bytes);
  if (estimate > 1e17) return InvalidArgument("kv-cache-bytes", "a KV pool beyond any memory");
  return int64_t{shape.layers} * shape.kv_heads * blocks * block_elements * element_bytes;
}

void CheckStep(const StepInput& step, int64_t max_rows) {
  ESPALIER_CHECK(step.batch.rows() <= max_rows &&
                 step.tokens.size() == static_cast<size_t>(step.batch.rows()));
}

void CheckQkv(const AttentionShape& shape, int32_t block_tokens, const StepInput& step, int64_t rows,
              int64_t cols) {
  ESPALIER_CHECK(cols == int64_t{shape.query_heads + 2 * shape.kv_heads} * shape.head_dim);
  ESPALIER_CHECK(rows == step.batch.rows() && step.batch.block_tokens == block_tokens);
}

int64_t WholeRows(std::span<const float> values, int64_t cols, int64_t max_rows) {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols;
  ESPALIER_CHECK(rows * cols == static_cast<int64_t>(values.size()) && rows <= max_rows);
  return rows;
}

void StoreRows(std::span<const float> values, const RowFormat& format, void* to) {
  auto* row = static_cast<std::byte*>(to);
  for (size_t first = 0; first < values.size(); first += static_cast<size_t>(format.cols)) {
    const std::span<const float> from = values.subspan(first, static_cast<size_t>(format.cols));
    if (format.bf16) {
      std::transform(from.begin(), from.end(), reinterpret_cast<bf16_t*>(row), ToBFloat16);
    } else {
      std::copy(from.begin(), from.end(), reinterpret_cast<float*>(row));
    }
    row += format.row_bytes();
  }
}

std::vector<float> LoadRows(const void* from, int64_t rows, const RowFormat& format) {
  std::vector<float> values(static_cast<size_t>(rows * format.cols));
  const auto* row = static_cast<const std::byte*>(from);
  for (int64_t r = 0; r < rows; ++r, row += format.row_bytes()) {
    float* to = values.data() + r * format.cols;
    if (format.bf16) {
      std::transform(reinterpret_cast<const bf16_t*>(row), reinterpret_cast<const bf16_t*>(row) + format.cols,
                     to, ToFloat);
    } else {
      std::copy_n(reinterpret_cast<const float*>(row), format.cols, to);
    }
  }
  return values;
}

}  // namespace espalier
