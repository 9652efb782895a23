#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/plan/attention_plan.h"
#include "model/backend_runner.h"

namespace espalier::bench {

// A random Llama, and where it runs. Defaults: 1.04 B parameters without the embedding.
struct ModelOptions {
  int32_t layers = 16;
  int32_t hidden = 2048;
  int32_t ffn = 8192;
  int32_t query_heads = 32;
  int32_t kv_heads = 8;
  int32_t head_dim = 64;
  int32_t vocab = 32000;
  std::string backend = "cpu";
  std::string isa = "auto";
  DType dtype = DType::kBFloat16;
  WeightType weights = WeightType::kDType;
  int32_t threads = 0;  // 0: every core that the process may use
  int32_t block_tokens = 16;
  int64_t peak_buffer_bytes = int64_t{512} << 20;  // memory that is read to measure the machine's bandwidth
  // What the device reaches, where this program cannot measure it: backend cuda.
  double peak_gb_per_s = 0.0;
  double peak_tflop_per_s = 0.0;

  ModelConfig Config(int32_t max_positions) const;
  // For steps of at most so many rows, and a KV pool of so many blocks.
  RunnerOptions Runner(int32_t max_rows, int32_t blocks) const;
  // Weights, and a KV pool of so many blocks.
  int64_t MemoryBytes(int32_t max_positions, int32_t blocks) const;
};

struct DecodeOptions {
  ModelOptions model;
  int32_t prompt_tokens = 2048;
  int32_t new_tokens = 16;  // of each branch; the first one is sampled with the prompt's last row
  std::vector<int32_t> branches = {1, 20, 50};
  std::vector<WeightType> weights = {WeightType::kDType};  // a model for each, side by side
  std::vector<AttentionMode> modes = {AttentionMode::kFlatten, AttentionMode::kSequence};
  int32_t prefill_chunk_tokens = 512;  // the most rows of a prefill step
  int32_t repeats = 3;
  uint64_t seed = 1;  // of weights, prompt and sampling

  int32_t max_positions() const { return prompt_tokens + new_tokens; }
  // The most rows of a step with this many branches: all of them decode in one step.
  int32_t MaxRows(int32_t branch_count) const;
  // Blocks of the KV pool that so many branches need side by side.
  int32_t Blocks(int32_t branch_count) const;
  int32_t MaxBranches() const;
  RunnerOptions Runner(WeightType weight_type) const;
  // Weights and KV pools of all models.
  int64_t MemoryBytes() const;
};

}  // namespace espalier::bench
