#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/sampling.h"

// What every backend needs besides its kernels: objects by id, what set-up refuses, what operations check,
// and activations as callers see them. For the backends only.
namespace espalier {

// Objects by id.
template <typename Id, typename T>
Id Append(std::vector<T>* objects, T object) {
  objects->push_back(std::move(object));
  return static_cast<Id>(objects->size() - 1);
}
// Aborts on an id that no call returned.
template <typename T, typename Id>
T& At(std::vector<T>& objects, Id id) {
  const auto index = static_cast<size_t>(id);
  ESPALIER_CHECK(index < objects.size());
  return objects[index];
}

// Set-up.

struct MatrixShape {
  int64_t rows = 0;
  int64_t cols = 0;
};
// Of the stacked parts of a matrix.
Result<MatrixShape> StackedShape(std::span<const HostTensor> parts);
// The values of a vector, its parts one behind another.
Result<std::vector<float>> StackedVector(std::span<const HostTensor> parts);

// A table of rotary angles in memory of the backend's own: [max_positions][2][half], cosines, then sines.
struct RotaryShape {
  int32_t max_positions = 0;
  int32_t half = 0;

  static Result<RotaryShape> Of(std::span<const float> inv_freq, int32_t max_positions);
  int64_t floats() const { return int64_t{max_positions} * 2 * half; }
  void Fill(std::span<const float> inv_freq, const ParallelFor& parallel, float* table) const;
  // Where the angles of a position begin; aborts beyond the last.
  int64_t At(int32_t position) const {
    ESPALIER_CHECK(position >= 0 && position < max_positions);
    return int64_t{position} * 2 * half;
  }
};

// What no KV pool can be.
Status CheckKvPool(const AttentionShape& shape, int32_t blocks, int32_t block_tokens);
// What a pool whose kernels are written for two types and pairs of dims cannot be; `backend` is its name.
Status CheckKvTypes(const AttentionShape& shape, int32_t max_head_dim, const char* backend);
// Bytes of a pool whose blocks hold `block_elements` for each layer and KV head; an error beyond any memory.
Result<int64_t> KvPoolBytes(const AttentionShape& shape, int32_t blocks, int64_t block_elements);

// A step.

void CheckStep(const StepInput& step, int64_t max_rows);
// Queries, keys and values of all rows of a step, for a KV pool of this shape.
void CheckQkv(const AttentionShape& shape, int32_t block_tokens, const StepInput& step, int64_t rows,
              int64_t cols);
// The weights of a norm of heads, among vectors that have `cols` and `values`; null for kNone.
template <typename Vector>
const float* HeadNorm(std::vector<Vector>& vectors, const AttentionShape& shape, VectorId norm) {
  if (norm == VectorId::kNone) return nullptr;
  const Vector& weight = At(vectors, norm);
  ESPALIER_CHECK(weight.cols == shape.head_dim);
  return weight.values.template as<float>();
}

// Activations as WriteActivation and ReadActivation give and take them.

// Rows of fp32 or bf16 that begin `stride` elements apart.
struct RowFormat {
  int64_t cols = 0;
  int64_t stride = 0;
  bool bf16 = false;

  int64_t row_bytes() const { return stride * static_cast<int64_t>(bf16 ? sizeof(bf16_t) : sizeof(float)); }
};
// How many rows of `cols` the values are; aborts if they are no whole number of rows, or too many.
int64_t WholeRows(std::span<const float> values, int64_t cols, int64_t max_rows);
void StoreRows(std::span<const float> values, const RowFormat& format, void* to);
std::vector<float> LoadRows(const void* from, int64_t rows, const RowFormat& format);

}  // namespace espalier
