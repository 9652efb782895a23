#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"

namespace espalier::cpu {

// Weights [rows, cols] in the order in which GEMM reads them (layout: GemmArgs). The only copy: embedding
// rows are gathered from it.
class PackedMatrix {
 public:
  // Stacks the rows of the parts, as `dtype` or, quantised on the way, as int8. Errors: parts empty or of
  // unequal widths, values that int8 cannot hold, no memory.
  static Result<PackedMatrix> Pack(std::span<const HostTensor> parts, DType dtype, WeightType weights,
                                   ThreadPool* pool);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  bool int8() const { return weights_ == WeightType::kInt8; }
  const void* data() const { return buffer_.data(); }
  const float* scales() const { return scales_.as<float>(); }  // [16 * panels()] of int8 weights, else null
  int32_t panels() const { return panels_; }
  int32_t panels_per_block() const { return panels_per_block_; }
  int32_t blocks() const { return (panels_ + panels_per_block_ - 1) / panels_per_block_; }

  // Into how many parts the rows of a GEMM are divided where there are few blocks for the threads: as few
  // as keep all threads busy to the end. Of many blocks each is read once.
  int32_t RowParts(int64_t gemm_rows, int32_t threads) const;

  // One row as fp32 [cols]; of int8 weights q * scale.
  void ReadRow(int64_t row, float* out) const;

 private:
  // Elements from the beginning to line 0 of a chunk of k of a panel, `k` its first.
  int64_t PanelOffset(int32_t panel, int64_t k) const;
  // Element of k and lane within a chunk of a panel.
  int64_t ElementOffset(int64_t k, int64_t lane) const;
  void PackPanel(std::span<const HostTensor> parts, int32_t panel);
  // False where a row holds a value that is not finite.
  bool PackInt8Panel(std::span<const HostTensor> parts, int32_t panel);

  Buffer buffer_;
  Buffer scales_;
  DType dtype_ = DType::kBFloat16;
  WeightType weights_ = WeightType::kDType;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t k_padded_ = 0;
  int32_t panels_ = 0;
  int32_t panels_per_block_ = 1;
};

}  // namespace espalier::cpu
