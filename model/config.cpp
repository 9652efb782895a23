#include "model/config.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "model/families/family.h"
#include "model/folder_hints.h"
#include "model/json_text.h"

namespace espalier {

namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// Upper limits: far above any model, and small enough that no product of three overflows int64_t.
constexpr int32_t kMaxVocab = 1 << 24;
constexpr int32_t kMaxWidth = 1 << 20;
constexpr int32_t kMaxLayers = 1 << 12;
constexpr int32_t kMaxHeads = 1 << 12;
constexpr int32_t kMaxHeadDim = 1 << 12;
constexpr int32_t kMaxPositions = 1 << 26;

// The family that model_type and architectures name; null with an error where there is none.
const Family* FindFamily(JsonReader& reader) {
  const std::string model_type = reader.String("model_type", "");
  const Family* family = FindModelType(model_type);
  if (!model_type.empty() && family == nullptr) {
    reader.Fail("model_type", Printable(model_type) + " is not supported; " + ModelTypes() + " are");
    return nullptr;
  }
  const json* architectures = reader.Find("architectures");
  if (architectures == nullptr) {
    if (family == nullptr) reader.Fail("architectures", "is missing; " + Architectures() + " are supported");
    return family;
  }
  const bool one_name =
      architectures->is_array() && architectures->size() == 1 && architectures->front().is_string();
  if (!one_name) {
    reader.Fail("architectures", "must be a list of one name: one of " + Architectures());
    return nullptr;
  }
  const auto& name = architectures->front().get_ref<const std::string&>();
  const Family* named = FindArchitecture(name);
  if (named == nullptr) {
    reader.Fail("architectures", Printable(name) + " is not supported; " + Architectures() + " are");
  } else if (family != nullptr && named != family) {
    reader.Fail("architectures", Printable(name) + " is not supported where model_type is " + model_type);
  }
  return named;
}

void ReadActivation(JsonReader& reader, ModelConfig& out) {
  const std::string activation = reader.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    reader.Fail("hidden_act", Printable(activation) + " is not supported; silu is");
  }
  for (LayerSpec& layer : out.layers) layer.activation = Activation::kSilu;
}

// Features that some models have, that change what is computed, and that the family has not asked for.
void RefuseFeatures(JsonReader& reader) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (reader.Has(key)) reader.Fail(key, "quantised weights are not supported");
  }
  for (const char* key : {"sliding_window", "attention_chunk_size", "clip_qkv", "attn_logit_softcapping",
                          "final_logit_softcapping", "num_local_experts", "layer_types"}) {
    if (!reader.Understands(key) && reader.Has(key)) reader.Fail(key, "is not supported");
  }
  for (const char* key : {"use_sliding_window", "use_qk_norm", "is_encoder_decoder", "add_cross_attention"}) {
    if (!reader.Understands(key) && reader.Bool(key, false)) reader.Fail(key, "true is not supported");
  }
  for (const char* key :
       {"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"}) {
    if (reader.Has(key) && reader.Positive(key, 1.0) != 1.0) reader.Fail(key, "is not supported");
  }
}

// Each tensor of a checkpoint states its own type; what config.json says shows only whether it is one that is
// known.
void CheckDType(JsonReader& reader) {
  const char* key = reader.Has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = reader.String(key, "auto");
  for (const char* known : {"float32", "bfloat16", "float16", "auto"}) {
    if (name == known) return;
  }
  reader.Fail(key, Printable(name) + " is not supported; float32, bfloat16 and float16 are");
}

// An id below the vocabulary; -1 for a negative one, which by custom means "none", and for one beyond the
// vocabulary, which no text holds. Nothing for what is no integer.
std::optional<int32_t> ReadTokenId(const json& value, const ModelConfig& config) {
  if (!value.is_number_integer()) return std::nullopt;
  const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  const int64_t id = fits ? value.get<int64_t>() : -1;
  return id >= 0 && id < config.vocab_size ? static_cast<int32_t>(id) : -1;
}

void NoteTokenId(const std::string& file, const char* key, const json& value, ModelConfig& out) {
  if (value.is_number_unsigned()) {
    out.notes.push_back(file + ": " + key + " " + value.dump() + " lies beyond the vocabulary of " +
                        std::to_string(out.vocab_size) + " tokens and ends no text");
  }
}

// A key that is present but null says "none"; a key that is absent leaves what is there.
void ReadTokenIds(const json& object, const std::string& file, JsonReader& reader, ModelConfig& out) {
  if (const auto bos = object.find("bos_token_id"); bos != object.end()) {
    const auto id = bos->is_null() ? std::optional<int32_t>(-1) : ReadTokenId(*bos, out);
    if (!id) reader.Fail("bos_token_id", "must be a token id");
    out.bos_token_id = id.value_or(-1);
  }
  const auto eos = object.find("eos_token_id");
  if (eos == object.end()) return;
  out.eos_token_ids.clear();
  if (eos->is_null()) return;
  const json list = eos->is_array() ? *eos : json::array({*eos});
  for (const json& entry : list) {
    const auto id = ReadTokenId(entry, out);
    if (!id) {
      reader.Fail("eos_token_id", "must be a token id or a list of token ids");
      return;
    }
    if (*id < 0) {
      NoteTokenId(file, "eos_token_id", entry, out);
    } else if (std::find(out.eos_token_ids.begin(), out.eos_token_ids.end(), *id) ==
               out.eos_token_ids.end()) {
      out.eos_token_ids.push_back(*id);
    }
  }
}

// Members of rope_scaling or rope_parameters.
Status ReadRopeScaling(const json& scaling, const std::string& file, const std::string& key,
                       int32_t max_positions, RopeConfig& out) {
  if (!scaling.is_object()) return InvalidArgument(file, key + ": must be an object");
  for (const auto& member : scaling.items()) {
    if (member.value().is_object()) {
      return InvalidArgument(
          file, key + "." + Printable(member.key()) + ": rotary parameters by layer type are not supported");
    }
  }
  JsonReader reader(scaling, file, key + ".");
  out.theta = reader.Positive("rope_theta", out.theta);
  const char* type_key = reader.Has("rope_type") ? "rope_type" : "type";
  const std::string type = reader.String(type_key, "default");
  if (type == "default") {
    out.type = RopeType::kDefault;
  } else if (type == "linear") {
    out.type = RopeType::kLinear;
  } else if (type == "llama3") {
    out.type = RopeType::kLlama3;
  } else if (type == "dynamic") {
    out.type = RopeType::kDynamic;
  } else {
    reader.Fail(type_key, Printable(type) + " is not supported; default, linear, llama3 and dynamic are");
  }
  if (reader.Positive("partial_rotary_factor", 1.0) != 1.0) {
    reader.Fail("partial_rotary_factor", "values other than 1 are not supported");
  }
  if (out.type == RopeType::kDefault) return reader.status();

  if (!reader.Has("factor")) reader.Fail("factor", "is missing");
  out.factor = reader.Positive("factor", 1.0);
  if (out.type == RopeType::kDynamic) {
    out.original_max_positions = std::min(
        max_positions, reader.Int("original_max_position_embeddings", max_positions, 1, kMaxPositions));
  }
  if (out.type == RopeType::kLlama3) {
    for (const char* needed : {"low_freq_factor", "high_freq_factor"}) {
      if (!reader.Has(needed)) reader.Fail(needed, "is missing");
    }
    out.low_freq_factor = reader.Positive("low_freq_factor", 1.0);
    out.high_freq_factor = reader.Positive("high_freq_factor", 4.0);
    if (out.high_freq_factor <= out.low_freq_factor) {
      reader.Fail("high_freq_factor", "must be greater than low_freq_factor");
    }
    out.original_max_positions =
        reader.Int("original_max_position_embeddings", max_positions, 1, kMaxPositions);
  }
  return reader.status();
}

// transformers 4 keeps the base in rope_theta and the rest in rope_scaling, transformers 5 all in
// rope_parameters. Where both are there, transformers 5 takes rope_scaling, and rope_theta only as the
// default.
Status ReadRope(const json& config, const std::string& file, JsonReader& reader, ModelConfig& out) {
  out.rope.theta = reader.Positive("rope_theta", out.rope.theta);
  if (reader.Positive("partial_rotary_factor", 1.0) != 1.0) {
    reader.Fail("partial_rotary_factor", "values other than 1 are not supported");
  }
  if (!reader.status().ok()) return reader.status();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || (found->is_object() && found->empty())) continue;
    return ReadRopeScaling(*found, file, key, out.max_positions, out.rope);
  }
  return {};
}

void ReadHeads(JsonReader& reader, ModelConfig& out) {
  out.query_heads = reader.Int("num_attention_heads", out.query_heads, 1, kMaxHeads);
  const bool as_queries = out.kv_heads == 0 || reader.IsNull("num_key_value_heads");
  out.kv_heads = reader.Int("num_key_value_heads", as_queries ? out.query_heads : out.kv_heads, 1, kMaxHeads);
  if (out.query_heads % out.kv_heads != 0) {
    reader.Fail("num_key_value_heads", "must divide num_attention_heads");
  }
  if (reader.Has("head_dim") || out.head_dim != 0) {
    out.head_dim = reader.Int("head_dim", out.head_dim, 2, kMaxHeadDim);
  } else {
    if (out.hidden_size % out.query_heads != 0) {
      reader.Fail("hidden_size", "must be a multiple of num_attention_heads where head_dim is not given");
    }
    out.head_dim = out.hidden_size / out.query_heads;
    if (out.head_dim > kMaxHeadDim) reader.Fail("num_attention_heads", "gives heads that are too wide");
  }
  if (out.head_dim % 2 != 0) reader.Fail("head_dim", "must be even");
}

void ReadSizes(JsonReader& reader, ModelConfig& out) {
  out.vocab_size = reader.Int("vocab_size", out.vocab_size, 1, kMaxVocab);
  out.hidden_size = reader.Int("hidden_size", out.hidden_size, 1, kMaxWidth);
  out.intermediate_size = reader.Int("intermediate_size", out.intermediate_size, 1, kMaxWidth);
  const int32_t layers = reader.Int("num_hidden_layers", out.layer_count(), 1, kMaxLayers);
  out.layers.resize(static_cast<size_t>(layers));
  ReadHeads(reader, out);
  out.max_positions = reader.Int("max_position_embeddings", out.max_positions, 1, kMaxPositions);
}

}  // namespace

int64_t ModelConfig::Parameters() const {
  const int64_t hidden = hidden_size;
  const int64_t ffn = intermediate_size;
  int64_t all = hidden + (tie_word_embeddings ? 1 : 2) * hidden * vocab_size;
  for (const LayerSpec& layer : layers) {
    all += 2 * hidden + hidden * (2 * q_size() + 2 * kv_size()) + 3 * hidden * ffn;
    if (layer.qkv_bias) all += q_size() + 2 * kv_size();
    if (layer.output_bias) all += hidden;
    if (layer.mlp_bias) all += 2 * ffn + hidden;
    if (layer.query_key_norm) all += 2 * head_dim;
  }
  return all;
}

Result<ModelConfig> ParseModelConfig(std::string_view text, const std::string& file) {
  auto parsed = ParseJsonObject(text, file);
  if (!parsed) return parsed.error();
  const json& config = *parsed;
  JsonReader reader(config, file);
  const Family* family = FindFamily(reader);
  if (family == nullptr) return reader.status().error();
  ModelConfig out = family->defaults();
  ReadSizes(reader, out);
  out.rms_norm_epsilon =
      static_cast<float>(reader.Positive("rms_norm_eps", static_cast<double>(out.rms_norm_epsilon)));
  out.tie_word_embeddings = reader.Bool("tie_word_embeddings", out.tie_word_embeddings);
  family->describe_layers(reader, out);
  ReadActivation(reader, out);
  RefuseFeatures(reader);
  CheckDType(reader);
  if (auto status = ReadRope(config, file, reader, out); !status.ok()) return status.error();

  // Defaults that a small vocabulary does not have mean "none".
  if (out.bos_token_id >= out.vocab_size) out.bos_token_id = -1;
  std::erase_if(out.eos_token_ids, [&](int32_t id) { return id >= out.vocab_size; });
  ReadTokenIds(config, file, reader, out);
  if (!reader.status().ok()) return reader.status().error();
  return out;
}

Status ApplyGenerationConfig(std::string_view text, const std::string& file, ModelConfig& config) {
  auto parsed = ParseJsonObject(text, file);
  if (!parsed) return parsed.error();
  JsonReader reader(*parsed, file);
  ReadTokenIds(*parsed, file, reader, config);
  return reader.status();
}

Result<ModelConfig> LoadModelConfig(const std::string& folder) {
  const std::string file = (std::filesystem::path(folder) / kConfigFile).string();
  const auto text = ReadTextFile(file, kMaxConfigBytes);
  if (!text) return text.error();
  auto config = ParseModelConfig(*text, file);
  if (!config) return config;

  const std::string generation_file = (std::filesystem::path(folder) / "generation_config.json").string();
  std::error_code error;
  if (!std::filesystem::exists(generation_file, error)) return config;
  const auto generation_text = ReadTextFile(generation_file, kMaxConfigBytes);
  if (!generation_text) return generation_text.error();
  if (auto status = ApplyGenerationConfig(*generation_text, generation_file, *config); !status.ok()) {
    return status.error();
  }
  return config;
}

}  // namespace espalier
