#include <nlohmann/json.hpp>

#include "model/families/family.h"

namespace espalier {

namespace {

// SmolLM3: in some layers, every fourth unless config.json lists them, Q and K carry no position (NoPE, Yang
// et al. 2025, "Rope to Nope and Back Again").
ModelConfig Defaults() {
  ModelConfig config;
  config.vocab_size = 128256;
  config.hidden_size = 2048;
  config.layers.resize(36);
  config.query_heads = 16;
  config.kv_heads = 4;
  config.head_dim = 0;
  config.max_positions = 32768;
  config.tie_word_embeddings = true;
  config.rope.theta = 2000000.0;
  config.bos_token_id = 128000;
  config.eos_token_ids = {128001};
  return config;
}

// no_rope_layers holds 1 for a layer that is turned, 0 for one that is not.
void DescribeRotary(JsonReader& reader, ModelConfig& config) {
  const int32_t interval = reader.Int("no_rope_layer_interval", 4, 1, 1 << 20);
  const nlohmann::json* listed = reader.Find("no_rope_layers");
  if (listed != nullptr && (!listed->is_array() || listed->size() < config.layers.size())) {
    reader.Fail("no_rope_layers", "must be a list with an entry for each layer");
    return;
  }
  for (size_t i = 0; i < config.layers.size(); ++i) {
    config.layers[i].rotary = (i + 1) % static_cast<size_t>(interval) != 0;
    if (listed == nullptr) continue;
    const nlohmann::json& entry = (*listed)[i];
    if (entry != 0 && entry != 1) reader.Fail("no_rope_layers", "must hold 0 and 1 only");
    config.layers[i].rotary = entry == 1;
  }
}

void DescribeLayers(JsonReader& reader, ModelConfig& config) {
  const bool attention_bias = reader.Bool("attention_bias", false);
  DescribeAll(config, {.qkv_bias = attention_bias,
                       .output_bias = attention_bias,
                       .mlp_bias = reader.Bool("mlp_bias", false)});
  DescribeRotary(reader, config);
  DescribeWindows(reader, config, 0,
                  [&](int32_t layer) { return !config.layers[static_cast<size_t>(layer)].rotary; });
}

}  // namespace

const Family kSmolLm3 = {"smollm3", "SmolLM3ForCausalLM", "SmolLM3Model", Defaults, DescribeLayers};

}  // namespace espalier
