#include "model/families/family.h"

namespace espalier {

namespace {

// Llama 1 to 3.2, and what is built like them.
ModelConfig Defaults() {
  ModelConfig config;
  config.kv_heads = 0;
  config.head_dim = 0;
  return config;
}

void DescribeLayers(JsonReader& reader, ModelConfig& config) {
  const bool attention_bias = reader.Bool("attention_bias", false);
  DescribeAll(config, {.qkv_bias = attention_bias,
                       .output_bias = attention_bias,
                       .mlp_bias = reader.Bool("mlp_bias", false)});
}

}  // namespace

const Family kLlama = {"llama", "LlamaForCausalLM", "LlamaModel", Defaults, DescribeLayers};

}  // namespace espalier
