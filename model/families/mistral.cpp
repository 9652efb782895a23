#include "model/families/family.h"

namespace espalier {

namespace {

// Mistral 7B, Nemo, Small (the text models): a Llama without biases whose layers may all have a window.
ModelConfig Defaults() {
  ModelConfig config;
  config.intermediate_size = 14336;
  config.kv_heads = 8;
  config.head_dim = 0;
  config.max_positions = 131072;
  return config;
}

void DescribeLayers(JsonReader& reader, ModelConfig& config) {
  DescribeAll(config, {.window = WindowWidth(reader, 4096)});
}

}  // namespace

const Family kMistral = {"mistral", "MistralForCausalLM", "MistralModel", Defaults, DescribeLayers};

}  // namespace espalier
