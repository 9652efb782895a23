#include "model/weights.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include "model/json_text.h"
#include "model/tensor_loader.h"

namespace espalier {

namespace {

using Parts = std::vector<TensorPart>;

constexpr const char* kHead = "lm_head.weight";

// Projections of layer `i`, by the stack in which they are multiplied.
struct LayerNames {
  std::string prefix;
  Parts qkv, output, gate_up, down;

  LayerNames(const ModelConfig& config, const std::string& model, int32_t i)
      : prefix(model + "layers." + std::to_string(i) + ".") {
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    qkv = {{attention + "q_proj", config.q_size()},
           {attention + "k_proj", config.kv_size()},
           {attention + "v_proj", config.kv_size()}};
    output = {{attention + "o_proj", config.hidden_size}};
    gate_up = {{mlp + "gate_proj", config.intermediate_size}, {mlp + "up_proj", config.intermediate_size}};
    down = {{mlp + "down_proj", config.hidden_size}};
  }
};

// "model.", or nothing where the folder holds a base model, saved without what stands around it.
std::string ModelPrefix(TensorLoader& loader) {
  const std::string embedding = "embed_tokens.weight";
  if (!loader.Holds(embedding)) return "model.";
  if (loader.Holds("model." + embedding)) {
    loader.Fail(embedding, "stands next to model." + embedding + ": which of them is meant is not clear");
  }
  return "";
}

// The name of the matrix of a tied model. A file may hold it under either name (safetensors stores shared
// memory once), or twice: then transformers 5 ties only equal ones and transformers 4 takes the embedding,
// so others are refused.
std::string TiedName(const std::string& model, TensorLoader& loader) {
  const std::string embedding = model + "embed_tokens.weight";
  if (!loader.Holds(kHead)) return model + "embed_tokens";
  if (!loader.Holds(embedding)) return "lm_head";
  loader.Ask(kHead);
  const auto equal = loader.source().AreEqual(embedding, kHead);
  if (!equal) {
    loader.Fail(equal.error());
  } else if (!*equal) {
    loader.Fail(kHead, "differs from " + embedding + ", though config.json says tie_word_embeddings");
  }
  return model + "embed_tokens";
}

// "self_attn.o_proj.bias" of "model.layers.3.self_attn.o_proj.bias".
std::string BehindLayer(const std::string& name) {
  return name.substr(name.find('.', name.find("layers.") + 7) + 1);
}

// transformers takes zeros for a bias that the files lack. Where all layers lack it, it was never there
// (attention_bias with no bias on o_proj, as in Qwen's made into a Llama); where some have it, the files are
// damaged, which Get reports.
void FindLackingBiases(const ModelConfig& config, const std::string& model, TensorLoader& loader,
                       std::vector<std::string>* notes) {
  if (!loader.HasNames()) return;
  const auto check = [&](bool LayerSpec::*has_bias, Parts LayerNames::*stack, size_t part) {
    std::vector<std::string> names;
    for (int32_t i = 0; i < config.layer_count(); ++i) {
      if (!(config.layers[static_cast<size_t>(i)].*has_bias)) continue;
      names.push_back((LayerNames(config, model, i).*stack)[part].name + ".bias");
      if (loader.Holds(names.back())) return;
    }
    if (names.empty()) return;
    for (const std::string& name : names) loader.LackBias(name);
    notes->push_back("no layer has " + BehindLayer(names.front()) +
                     ", which config.json describes: zeros stand for it, as in transformers");
  };
  for (size_t part = 0; part < 3; ++part) check(&LayerSpec::qkv_bias, &LayerNames::qkv, part);
  check(&LayerSpec::output_bias, &LayerNames::output, 0);
  for (size_t part = 0; part < 2; ++part) check(&LayerSpec::mlp_bias, &LayerNames::gate_up, part);
  check(&LayerSpec::mlp_bias, &LayerNames::down, 0);
}

// The index in "layers.INDEX.rest"; -1 for other names.
int32_t LayerOf(std::string_view name) {
  if (!name.starts_with("layers.")) return -1;
  name.remove_prefix(7);
  int32_t index = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  return error == std::errc() && end < name.data() + name.size() && *end == '.' ? index : -1;
}

// Buffers that older versions of transformers saved; the model makes its own.
bool IsOldBuffer(std::string_view name) {
  return name.find(".rotary_emb.") != std::string_view::npos || name.ends_with(".masked_bias") ||
         name.ends_with(".self_attn.bias");
}

// transformers passes over every tensor that its model does not ask for. So do we where that changes nothing
// or concerns another part: old buffers, heads of training, layers that config.json does not count, biases of
// zeros. A tensor of a part that is computed here would belong to another kind of model (a bias where
// config.json describes none, a norm of queries): with such a folder transformers computes something else
// than what was trained, without a word, and we refuse.
Result<bool> MayPassOver(const std::string& name, const ModelConfig& config, const std::string& model,
                         TensorSource& source) {
  const bool head = name.starts_with("lm_head.");
  const std::string_view inner =
      name.starts_with(model) ? std::string_view(name).substr(model.size()) : std::string_view();
  const int32_t layer = LayerOf(inner);
  const bool computed = head || (layer >= 0 && layer < config.layer_count()) ||
                        inner.starts_with("embed_tokens.") || inner.starts_with("norm.");
  if (!computed || IsOldBuffer(name)) return true;
  if (!name.ends_with(".bias")) return false;
  return source.IsZero(name);
}

void PassOverTheRest(const ModelConfig& config, const std::string& model, TensorLoader& loader,
                     std::vector<std::string>* notes) {
  if (!loader.status().ok()) return;
  const std::vector<std::string> left = loader.Left();
  for (const std::string& name : left) {
    const auto may = MayPassOver(name, config, model, loader.source());
    if (!may) return loader.Fail(may.error());
    if (*may) continue;
    const bool bias = name.find("_proj.bias") != std::string::npos;
    return loader.Fail(name,
                       std::string("is no part of the model that config.json describes") +
                           (bias ? " (attention_bias and mlp_bias there say which biases it has)" : ""));
  }
  if (left.empty()) return;
  constexpr size_t kNamed = 3;
  std::string list;
  for (size_t i = 0; i < std::min(kNamed, left.size()); ++i) list += (i > 0 ? ", " : "") + Printable(left[i]);
  notes->push_back(
      "passed over " + std::to_string(left.size()) + (left.size() == 1 ? " tensor" : " tensors") +
      " that the model does not use, as transformers does: " + list + (left.size() > kNamed ? ", ..." : ""));
}

DecoderLayer AddLayer(const ModelConfig& config, const LayerSpec& spec, const LayerNames& names,
                      TensorLoader& loader) {
  DecoderLayer layer;
  layer.attention_norm = loader.Norm(names.prefix + "input_layernorm", config.hidden_size);
  layer.qkv = loader.Matrix(names.qkv, config.hidden_size);
  layer.output = loader.Matrix(names.output, config.q_size());
  layer.ffn_norm = loader.Norm(names.prefix + "post_attention_layernorm", config.hidden_size);
  layer.gate_up = loader.Matrix(names.gate_up, config.hidden_size);
  layer.down = loader.Matrix(names.down, config.intermediate_size);
  if (spec.query_key_norm) {
    layer.query_norm = loader.Norm(names.prefix + "self_attn.q_norm", config.head_dim);
    layer.key_norm = loader.Norm(names.prefix + "self_attn.k_norm", config.head_dim);
  }
  if (spec.qkv_bias) layer.qkv_bias = loader.Bias(names.qkv);
  if (spec.output_bias) layer.output_bias = loader.Bias(names.output);
  if (spec.mlp_bias) {
    layer.gate_up_bias = loader.Bias(names.gate_up);
    layer.down_bias = loader.Bias(names.down);
  }
  return layer;
}

}  // namespace

Result<DecoderWeights> AddWeights(const ModelConfig& config, TensorSource& source, Backend& backend) {
  TensorLoader loader(source, backend);
  DecoderWeights weights;
  const std::string model = ModelPrefix(loader);
  const bool tied = config.tie_word_embeddings;
  const std::string embedding = tied ? TiedName(model, loader) : model + "embed_tokens";
  FindLackingBiases(config, model, loader, &weights.notes);
  weights.embedding = loader.Table(embedding, config.vocab_size, config.hidden_size);
  for (int32_t i = 0; i < config.layer_count() && loader.status().ok(); ++i) {
    const LayerSpec& spec = config.layers[static_cast<size_t>(i)];
    weights.layers.push_back(AddLayer(config, spec, LayerNames(config, model, i), loader));
  }
  weights.norm = loader.Norm(model + "norm", config.hidden_size);
  if (tied && backend.info().weights == WeightType::kDType) {
    weights.head = weights.embedding;
  } else {
    weights.head = loader.Matrix({{tied ? embedding : "lm_head", config.vocab_size}}, config.hidden_size);
  }
  PassOverTheRest(config, model, loader, &weights.notes);
  if (!loader.status().ok()) return loader.status().error();
  if (auto status = source.CheckUnchanged(); !status.ok()) return status.error();
  return weights;
}

}  // namespace espalier
