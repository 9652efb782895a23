#include "model/families/family.h"

namespace espalier {

namespace {

// Qwen2 and Qwen2.5 (dense): biases on Q, K and V.
ModelConfig Defaults() {
  ModelConfig config;
  config.vocab_size = 151936;
  config.intermediate_size = 22016;
  config.head_dim = 0;
  config.max_positions = 32768;
  config.bos_token_id = -1;
  config.eos_token_ids.clear();
  return config;
}

void DescribeLayers(JsonReader& reader, ModelConfig& config) {
  DescribeAll(config, {.qkv_bias = true});
  DescribeUpperWindows(reader, config);
}

}  // namespace

const Family kQwen2 = {"qwen2", "Qwen2ForCausalLM", "Qwen2Model", Defaults, DescribeLayers};

}  // namespace espalier
