#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/backend_parts.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_pool.h"
#include "kernels/cpu/kv_spans.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"

namespace espalier::cpu {

// Set-up lies in cpu_setup.cpp and cpu_costs.cpp, the operations of a step in cpu_step.cpp, the rest in
// cpu_backend.cpp.
class CpuBackend final : public Backend {
 public:
  CpuBackend(const BackendOptions& options, const KernelTable& kernels, std::unique_ptr<ThreadPool> pool);

  const BackendInfo& info() const override { return info_; }

  Result<MatrixId> AddMatrix(std::span<const HostTensor> parts) override;
  Result<MatrixId> AddTable(std::span<const HostTensor> parts) override;
  Result<VectorId> AddVector(std::span<const HostTensor> parts) override;
  Result<RotaryId> AddRotary(std::span<const float> inv_freq, int32_t max_positions) override;
  Result<KvId> AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) override;
  Result<ActivationId> AddActivation(ActivationKind kind, int64_t cols) override;

  void BeginStep(std::shared_ptr<const StepInput> step) override;
  void Embed(MatrixId table, ActivationId out) override;
  void RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) override;
  void MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) override;
  void RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) override;
  void TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                     ActivationId out) override;
  void SwiGlu(ActivationId in, ActivationId out) override;
  void GatherLogitRows(ActivationId in, ActivationId out) override;
  void Logits(ActivationId in, MatrixId head, int32_t first_row) override;
  void Sample() override;
  void EndStep() override;
  Result<StepResult> Wait() override;

  void WriteActivation(ActivationId activation, std::span<const float> values) override;
  std::vector<float> ReadActivation(ActivationId activation) override;

 private:
  // fp32 [cols], zeros up to the next multiple of 16.
  struct Vector {
    Buffer values;
    int64_t cols = 0;
  };
  struct Rotary {
    RotaryShape shape;
    Buffer angles;

    const float* At(int32_t position) const { return angles.as<float>() + shape.At(position); }
  };
  // [max_rows, cols] of bf16 or fp32. Rows are an odd number of cache lines apart, so that a column of rows
  // does not fall into one set of the cache; what lies behind the last column is zero.
  struct Activation {
    Buffer values;
    int64_t cols = 0;
    int64_t stride = 0;  // elements
    int64_t rows = 0;
    bool bf16 = false;

    RowFormat format() const { return {cols, stride, bf16}; }
    float* Floats(int64_t row) const { return values.as<float>() + row * stride; }
    void* Row(int64_t row) const { return values.as<std::byte>() + row * format().row_bytes(); }
  };

  Result<MatrixId> AddPacked(std::span<const HostTensor> parts, WeightType weights);
  Activation& Output(ActivationId id, int64_t rows, int64_t cols);
  const Activation& Floats(ActivationId id);
  const Activation& CheckedQkv(const KvPool& kv, ActivationId qkv);
  // Everything but C. int8 operands are made here, in memory that the next call takes again.
  GemmArgs GemmOf(const Activation& in, const PackedMatrix& w, int64_t first_row, int64_t rows);
  void Quantize(const Activation& in, int64_t first_row, GemmArgs* args);
  void RunGemm(const PackedMatrix& w, GemmArgs args);
  // What attention of this shape costs, measured on KV of its own; the defaults where there is no memory for
  // it.
  PlanCosts MeasureCosts(const AttentionShape& shape, int32_t block_tokens);
  // Memory of attention for tiles and segments of this size.
  void ReserveScratch(const KvPool& kv, int32_t item_rows, int32_t segment_spans, int64_t partials);
  AttentionScratch Scratch(const KvPool& kv, int32_t item_rows, int32_t segment_spans, int32_t thread) const;
  void MergeRows(const KvPool& kv, const Activation& out);
  // The pool's threads, for what is not the CPU backend's own.
  ParallelFor Parallel();
  // Runs body(row) for all rows, on all threads if the rows hold enough floats for it to pay.
  template <typename Body>
  void ForRows(int64_t rows, int64_t floats, const Body& body);

  const KernelTable& kernels_;
  std::unique_ptr<ThreadPool> pool_;
  BackendInfo info_;
  int64_t max_rows_;

  std::vector<PackedMatrix> matrices_;
  std::vector<Vector> vectors_;
  std::vector<Rotary> rotaries_;
  std::vector<KvPool> kv_pools_;
  std::vector<Activation> activations_;
  struct {
    Buffer values;  // [rows][stride] int8
    Buffer scales;  // [rows][groups] fp32
    Buffer starts;  // [rows][groups] int32
  } int8_operands_;
  Buffer partials_;
  std::vector<Buffer> scratch_;  // [threads]
  Buffer logits_;                // of logit_rows_
  LogitRows logit_rows_;
  SequenceStore sequences_;

  std::shared_ptr<const StepInput> step_;
  StepKvSpans kv_spans_;
  std::chrono::steady_clock::time_point step_begin_;
  std::chrono::steady_clock::duration attention_time_{};
  StepResult result_;
  std::optional<StepResult> done_;
};

}  // namespace espalier::cpu
