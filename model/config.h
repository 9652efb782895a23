#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

enum class RopeType : uint8_t { kDefault, kLinear, kLlama3, kDynamic };

// Rotary position embedding. Types whose rotation depends on the length of the text (longrope) or that scale
// attention (yarn) are refused: keys in a shared prefix cache must not change later. kDynamic (NTK scaling by
// length) is kDefault up to original_max_positions and is served only for paths that stay within.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                 // kLinear, kLlama3, kDynamic
  double low_freq_factor = 1.0;        // kLlama3
  double high_freq_factor = 4.0;       // kLlama3
  int32_t original_max_positions = 0;  // kLlama3, kDynamic: length the model was first trained for
};

// What the gate of a feed-forward network passes through.
enum class Activation : uint8_t { kSilu };

// What a layer of the decoder (model/decoder.h) does beyond what all of them do: RMS norm, attention, RMS
// norm, gated feed-forward network, each pair with the residual stream around it.
struct LayerSpec {
  bool qkv_bias = false;
  bool output_bias = false;     // of the projection behind attention
  bool mlp_bias = false;        // of gate, up and down
  bool query_key_norm = false;  // an RMS norm of each head of Q and K, before they are turned
  bool rotary = true;           // Q and K are turned by their positions
  int32_t window = 0;           // how many tokens a token sees, itself included; 0: all of its path
  Activation activation = Activation::kSilu;
};

// Hyper-parameters of a model of any family (model/families), as in Hugging Face's config.json. Defaults are
// those of a Llama. Values of a config that was read lie in ranges whose products fit int64_t.
struct ModelConfig {
  int32_t vocab_size = 32000;
  int32_t hidden_size = 4096;
  int32_t intermediate_size = 11008;
  std::vector<LayerSpec> layers = std::vector<LayerSpec>(32);
  int32_t query_heads = 32;
  int32_t kv_heads = 32;   // divides query_heads
  int32_t head_dim = 128;  // even; query_heads * head_dim need not be hidden_size
  int32_t max_positions = 2048;
  float rms_norm_epsilon = 1e-6F;
  bool tie_word_embeddings = false;  // the embedding is also the output head
  RopeConfig rope;
  int32_t bos_token_id = 1;                  // -1: none
  std::vector<int32_t> eos_token_ids = {2};  // any of them ends a text; may be empty
  std::vector<std::string> notes;            // what was passed over in the files, a line each, for a log

  int32_t layer_count() const { return static_cast<int32_t>(layers.size()); }
  int64_t q_size() const { return int64_t{query_heads} * head_dim; }
  int64_t kv_size() const { return int64_t{kv_heads} * head_dim; }
  // Of the weights and biases together; a tied head counts once.
  int64_t Parameters() const;
};

// Reads the text of a config.json, in the form of transformers 4 (rope_theta, rope_scaling, torch_dtype) or 5
// (rope_parameters, dtype). Keys that change what the model computes and are not understood are refused;
// others are passed over. Errors: kInvalidArgument with `field` == file, the message begins with the key.
Result<ModelConfig> ParseModelConfig(std::string_view text, const std::string& file = "config.json");

// Takes bos_token_id and eos_token_id of a generation_config.json, where it has them, into `config`. As in
// config.json a negative id means none, and one beyond the vocabulary is passed over.
Status ApplyGenerationConfig(std::string_view text, const std::string& file, ModelConfig& config);

// folder/config.json, and folder/generation_config.json where there is one.
Result<ModelConfig> LoadModelConfig(const std::string& folder);

}  // namespace espalier
