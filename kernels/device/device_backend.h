#pragma once

#include <array>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend_parts.h"
#include "kernels/device/device.h"
#include "kernels/device/history_store.h"
#include "kernels/device/lower_step.h"

namespace espalier::device {

// Rows that a GEMM of `rows` rows is computed on; the rows behind hold garbage. Few sizes mean few choices
// of an algorithm, and rows of one bucket have the same bits. At most the rows that every activation has.
int32_t RowBucket(int32_t rows, int32_t max_rows);

// The backend over a device, real or emulated. Plain host code: set-up lies in device_setup.cpp, the
// operations of a step in device_step.cpp.
class DeviceBackend final : public Backend {
 public:
  // Refuses options that no device serves.
  static Status Check(const BackendOptions& options);
  // Errors: those of Check; no memory for its own buffers.
  static Result<std::unique_ptr<Backend>> Create(const BackendOptions& options,
                                                 std::unique_ptr<Device> device);
  ~DeviceBackend() override;

  const BackendInfo& info() const override { return info_; }
  int64_t FreeKvBytes() override;

  Result<MatrixId> AddMatrix(std::span<const HostTensor> parts) override;
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
  void FlushCaches() override;

 private:
  static constexpr int32_t kStepsInFlight = 2;
  static constexpr int64_t kStagingBytes = int64_t{16} << 20;

  // [rows, cols] of the compute type, both padded to multiples of 16 by zeros.
  struct Matrix {
    DeviceMemory values;
    int32_t rows = 0;
    int32_t cols = 0;
    int32_t padded_rows = 0;
    int32_t padded_cols = 0;
  };
  struct Vector {
    DeviceMemory values;  // fp32
    int32_t cols = 0;
  };
  struct Rotary {
    RotaryShape shape;
    DeviceMemory angles;
  };
  struct KvPool {
    DeviceMemory values;
    AttentionShape shape;
    KvLayout layout;
    bool bf16() const { return shape.kv_dtype == DType::kBFloat16; }
  };
  // [padded max_rows, stride]; the padding of a kOperand is zero in every column behind the last.
  struct Activation {
    DeviceMemory values;
    ActivationKind kind = ActivationKind::kResidual;
    int32_t cols = 0;
    int64_t stride = 0;  // elements
    int32_t rows = 0;
    bool bf16 = false;

    RowFormat format() const { return {cols, stride, bf16}; }
  };
  // The host's and the device's halves of a step in flight. Kernels find the descriptor at descriptor_at and
  // leave results at results_at: on the device or, where that has no room for a step as large as this one, on
  // the host.
  struct StepSlot {
    DeviceMemory host_descriptor;
    DeviceMemory descriptor;
    DeviceMemory host_results;
    DeviceMemory results;
    std::byte* descriptor_at = nullptr;
    std::byte* results_at = nullptr;
    std::shared_ptr<const StepInput> step;
    std::unique_ptr<LoweredStep> lowered;
    LogitsView logit_rows;      // of the last Logits; no data where there was no room for them
    std::vector<float> logits;  // StepResult::logits
    int32_t attention_calls = 0;
    bool sampled = false;
    int32_t first_event = 0;
  };
  // Where a step's answers lie in StepSlot::results.
  struct ResultLayout {
    int64_t fault, summaries, sampled, scored, top, bytes;
    explicit ResultLayout(const LoweredStep& lowered);
  };

  DeviceBackend(const BackendOptions& options, std::unique_ptr<Device> device);
  Status AllocateOwn();
  // What a step may take in addition to a pool: for the largest steps that are common all that they need,
  // others find room elsewhere (Room).
  Status ReserveBeside(const KvPool& pool);
  int32_t TallestMatrix() const;
  int64_t ResultBytes() const;
  // Of one row and segment.
  static int64_t PartialBytes(const KvPool& pool) {
    return int64_t{pool.shape.query_heads} * (pool.layout.stored_dim + 2) *
           static_cast<int64_t>(sizeof(float));
  }
  DType compute_dtype() const { return info_.dtype; }
  bool bf16() const { return info_.dtype == DType::kBFloat16; }
  int64_t element_bytes() const { return static_cast<int64_t>(SizeOf(info_.dtype)); }

  // Uploads [rows, cols] as rows of `padded_cols` of the compute type, through the pinned staging memory.
  Status UploadRows(const HostTensor& part, int64_t padded_cols, std::byte* to);
  Result<DeviceMemory> UploadFloats(std::span<const float> values);

  StepSlot& current() { return slots_[static_cast<size_t>(issued_ % kStepsInFlight)]; }
  // All four: memory of at least `bytes`, what it held is lost where it grows. Reserve and ReserveHost:
  // false, with the device failed, where there is none. TryGrow: false where the device has none to spare.
  bool Reserve(DeviceMemory* memory, int64_t bytes, const char* what);
  bool ReserveHost(DeviceMemory* memory, int64_t bytes, const char* what);
  bool TryGrow(DeviceMemory* memory, int64_t bytes);
  // Memory for kernels: `device` where it has or finds room, else `host`; null, with the device failed, where
  // the host has none either.
  std::byte* Room(DeviceMemory* device, DeviceMemory* host, int64_t bytes, const char* what);
  bool PrepareSlot(StepSlot* slot);
  bool ReserveTokens(int32_t sequence_slots);
  bool ReserveSampling(int32_t padded_vocab);
  void MoveBlocks(const StepSlot& slot);
  Activation& Output(ActivationId id, int32_t rows, int64_t cols);
  RowsView ViewOf(const Activation& activation) const;
  Activation& CheckedQkv(const KvPool& pool, ActivationId qkv);
  void DownloadLogits(StepSlot* slot);
  StepResult ReadResult(const StepSlot& slot);

  std::unique_ptr<Device> device_;  // first: memory is given back to it
  BackendInfo info_;
  int32_t max_rows_;
  int32_t padded_max_rows_;

  std::vector<Matrix> matrices_;
  std::vector<Vector> vectors_;
  std::vector<Rotary> rotaries_;
  std::vector<KvPool> kv_pools_;
  std::vector<Activation> activations_;
  DeviceMemory staging_;  // pinned, two halves
  int64_t staged_ = 0;    // halves used so far
  DeviceMemory last_token_;
  DeviceMemory partials_;
  DeviceMemory host_partials_;        // for plans with more than the device has room for
  std::byte* partials_at_ = nullptr;  // of the step being issued: either
  DeviceMemory logits_;
  DeviceMemory sample_scratch_;
  DeviceMemory flush_;
  HistoryStore histories_;

  std::array<StepSlot, kStepsInFlight> slots_;
  int64_t issued_ = 0;  // steps
  int64_t waited_ = 0;
  bool in_step_ = false;
};

}  // namespace espalier::device
