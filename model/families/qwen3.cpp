#include "model/families/family.h"

namespace espalier {

namespace {

// Qwen3 (dense): a norm of each head of Q and K, and heads whose width is not hidden_size / query_heads.
ModelConfig Defaults() {
  ModelConfig config;
  config.vocab_size = 151936;
  config.intermediate_size = 22016;
  config.max_positions = 32768;
  config.bos_token_id = -1;
  config.eos_token_ids.clear();
  return config;
}

void DescribeLayers(JsonReader& reader, ModelConfig& config) {
  const bool attention_bias = reader.Bool("attention_bias", false);
  DescribeAll(config, {.qkv_bias = attention_bias, .output_bias = attention_bias, .query_key_norm = true});
  DescribeUpperWindows(reader, config);
}

}  // namespace

const Family kQwen3 = {"qwen3", "Qwen3ForCausalLM", "Qwen3Model", Defaults, DescribeLayers};

}  // namespace espalier
