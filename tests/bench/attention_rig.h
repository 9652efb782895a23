#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/result.h"
#include "kernels/plan/attention_plan.h"

namespace espalier::bench {

// Attention alone on a backend of its own: a KV pool full of random numbers, the same in each layer, and
// queries. Every layer is read from memory: a device's caches are emptied before it; on the CPU layers stand
// one behind the other in memory, as in a model, more of them than the caches hold.
class AttentionRig {
 public:
  // `shape`: with the number of layers. Errors name the flag at fault.
  static Result<std::unique_ptr<AttentionRig>> Create(const BackendOptions& options,
                                                      const AttentionShape& shape, int32_t blocks,
                                                      int32_t block_tokens);

  const BackendInfo& info() const { return backend_->info(); }

  // Gives the batch's rows random queries, and their keys and values to the pool.
  Status Prepare(const TreeBatch& batch);
  // Attention of the batch that was prepared, in every layer; microseconds of one layer, a GPU's by its own
  // events.
  Result<double> Attend(const TreeBatch& batch, const AttentionPlan& plan);
  // What the last Attend gave: its largest difference from softmax(q k^T / sqrt(head_dim)) v in fp64 over
  // each row's path, in parts of the largest value; over at most `max_rows` rows, evenly spread.
  double LargestError(const TreeBatch& batch, int32_t max_rows);

 private:
  AttentionRig(std::unique_ptr<Backend> backend, const AttentionShape& shape, int32_t block_tokens,
               int32_t max_rows);
  Status AddBuffers(int32_t blocks);
  Status Fill(int32_t blocks);
  Result<StepResult> Store(const TreeBatch& batch);
  std::shared_ptr<StepInput> Step(const TreeBatch& batch) const;
  int64_t columns() const;
  // The [columns] values of the token in a KV slot: queries, keys, values; bf16 holds them exactly.
  void FillRow(int64_t slot, float* row) const;
  std::vector<double> Expected(const TreeBatch& batch, int32_t row) const;

  std::unique_ptr<Backend> backend_;
  AttentionShape shape_;
  int32_t block_tokens_;
  int32_t max_rows_;
  KvId kv_ = KvId::kNone;
  ActivationId qkv_ = ActivationId::kNone;
  ActivationId out_ = ActivationId::kNone;
  uint64_t step_ = 0;
};

}  // namespace espalier::bench
