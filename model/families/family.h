#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "model/config.h"
#include "model/json_text.h"

// How a family of models joins: a file here that defines its Family, and a line in registry.cpp. Everything
// else (sizes, rotary parameters, weights, the forward pass) is read off the ModelConfig and exists once.
namespace espalier {

// An architecture of Hugging Face's, as config.json names it.
struct Family {
  const char* model_type;         // "llama"
  const char* architecture;       // "LlamaForCausalLM"
  const char* base_architecture;  // "LlamaModel": saved without the head, which transformers then adds
  // What transformers takes for keys that config.json lacks. head_dim 0: hidden_size / query_heads;
  // kv_heads 0: as many as query heads.
  ModelConfig (*defaults)();
  // Describes `config.layers`, of which there are already as many as num_hidden_layers says; of the sizes all
  // have been read. A key that it does not ask `reader` for, and that changes what other families compute, is
  // refused afterwards.
  void (*describe_layers)(JsonReader& reader, ModelConfig& config);
};

extern const Family kLlama;
extern const Family kMistral;
extern const Family kQwen2;
extern const Family kQwen3;
extern const Family kSmolLm3;

// All that are served.
std::span<const Family* const> Families();
// By model_type, and by either name of the architecture; null where no family has it.
const Family* FindModelType(const std::string& model_type);
const Family* FindArchitecture(const std::string& architecture);
// "llama, mistral, ..." and "LlamaForCausalLM, MistralForCausalLM, ...", for messages.
std::string ModelTypes();
std::string Architectures();

// Gives every layer the same description.
void DescribeAll(ModelConfig& config, const LayerSpec& layer);

// The width of sliding_window: `missing` where the key is not there, 0 (no window) where it is null.
int32_t WindowWidth(JsonReader& reader, int32_t missing);

// Windows by use_sliding_window and layer_types, as Qwen2, Qwen3 and SmolLM3 have them. Where layer_types is
// not there, the layers for which `is_windowed` says so have one.
void DescribeWindows(JsonReader& reader, ModelConfig& config, int32_t missing_width,
                     const std::function<bool(int32_t layer)>& is_windowed);
// The same where layers from max_window_layers on have one: Qwen2 and Qwen3.
void DescribeUpperWindows(JsonReader& reader, ModelConfig& config);

}  // namespace espalier
