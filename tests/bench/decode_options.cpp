#include "tests/bench/decode_options.h"

#include <algorithm>

#include "model/decoder.h"

namespace espalier::bench {

ModelConfig ModelOptions::Config(int32_t max_positions) const {
  ModelConfig config;
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.intermediate_size = ffn;
  config.layers.resize(static_cast<size_t>(layers));
  config.query_heads = query_heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.max_positions = max_positions;
  return config;
}

RunnerOptions ModelOptions::Runner(int32_t max_rows, int32_t blocks) const {
  RunnerOptions runner;
  runner.backend.name = backend;
  runner.backend.isa = isa;
  runner.backend.dtype = dtype;
  runner.backend.weights = weights;
  runner.backend.threads = threads;
  runner.backend.max_rows = max_rows;
  runner.block_tokens = block_tokens;
  runner.kv_blocks = blocks;
  return runner;
}

int64_t ModelOptions::MemoryBytes(int32_t max_positions, int32_t blocks) const {
  const DType type = backend == "ref" ? DType::kFloat32 : dtype;
  const ModelConfig config = Config(max_positions);
  const AttentionShape attention = AttentionOf(config, type);
  return WeightMemoryBytes(config, type, weights) +
         attention.KvBytesPerTokenLayer() * attention.layers * block_tokens * blocks;
}

int32_t DecodeOptions::MaxRows(int32_t branch_count) const {
  return std::max(prefill_chunk_tokens, branch_count);
}

int32_t DecodeOptions::Blocks(int32_t branch_count) const {
  const int32_t block = model.block_tokens;
  // A branch's first block begins with a copy of the prompt's last, partly filled one.
  const int32_t of_branch = (block + new_tokens + block - 1) / block;
  return (prompt_tokens + block - 1) / block + 1 + branch_count * of_branch;
}

int32_t DecodeOptions::MaxBranches() const { return *std::max_element(branches.begin(), branches.end()); }

RunnerOptions DecodeOptions::Runner(WeightType weight_type) const {
  RunnerOptions runner = model.Runner(MaxRows(MaxBranches()), Blocks(MaxBranches()));
  runner.backend.weights = weight_type;
  return runner;
}

int64_t DecodeOptions::MemoryBytes() const {
  int64_t bytes = 0;
  for (const WeightType type : weights) {
    ModelOptions of_type = model;
    of_type.weights = type;
    bytes += of_type.MemoryBytes(max_positions(), Blocks(MaxBranches()));
  }
  return bytes;
}

}  // namespace espalier::bench
