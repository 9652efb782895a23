#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/config.h"
#include "model/model_runner.h"

namespace espalier::test {

// Another backend as if it were a device: operations are queued and run when their step is waited for; what
// earlier steps left in the activations is overwritten with NaN before.
class AsyncBackend : public Backend {
 public:
  AsyncBackend(std::unique_ptr<Backend> inner, int32_t steps_in_flight, int32_t max_rows);

  const BackendInfo& info() const override { return info_; }
  Result<MatrixId> AddMatrix(std::span<const HostTensor> parts) override { return inner_->AddMatrix(parts); }
  Result<MatrixId> AddTable(std::span<const HostTensor> parts) override { return inner_->AddTable(parts); }
  Result<VectorId> AddVector(std::span<const HostTensor> parts) override { return inner_->AddVector(parts); }
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

  int64_t attention_calls() const { return attention_calls_; }

 private:
  using Operation = std::function<void(Backend&)>;
  struct Buffer {
    ActivationId id;
    int64_t cols;
  };

  void Enqueue(Operation operation) { recording_.push_back(std::move(operation)); }

  std::unique_ptr<Backend> inner_;
  BackendInfo info_;
  int32_t max_rows_;
  std::vector<Buffer> buffers_;
  std::vector<Operation> recording_;              // of the step between BeginStep and EndStep
  std::deque<std::vector<Operation>> in_flight_;  // of steps not yet waited for
  int64_t attention_calls_ = 0;
};

// A Llama with weights from a hash on the naive fp32 backend, run as on a device.
struct AsyncLlama {
  std::unique_ptr<ModelRunner> runner;
  const AsyncBackend* backend = nullptr;  // the runner's
};
AsyncLlama MakeAsyncLlama(const ModelConfig& config, uint64_t seed, int32_t kv_blocks, int32_t block_tokens,
                          int32_t steps_in_flight, int32_t max_rows);

}  // namespace espalier::test
