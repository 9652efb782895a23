#include "tests/model/model_folder.h"

#include <unistd.h>

#include <cstring>
#include <fstream>

#include "model/config.h"
#include "model/hashed_weights.h"
#include "tests/support/catch.h"

namespace espalier::test {

namespace {

// Names and shapes of all tensors of a model in Hugging Face's files.
std::map<std::string, std::vector<int64_t>> TensorShapes(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.intermediate_size;
  std::map<std::string, std::vector<int64_t>> shapes;
  const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    shapes[name + ".weight"] = {out, in};
    if (bias) shapes[name + ".bias"] = {out};
  };
  linear("model.embed_tokens", config.vocab_size, hidden, false);
  if (!config.tie_word_embeddings) linear("lm_head", config.vocab_size, hidden, false);
  shapes["model.norm.weight"] = {hidden};
  for (int32_t i = 0; i < config.layer_count(); ++i) {
    const LayerSpec& spec = config.layers[static_cast<size_t>(i)];
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    shapes[layer + "input_layernorm.weight"] = {hidden};
    shapes[layer + "post_attention_layernorm.weight"] = {hidden};
    linear(layer + "self_attn.q_proj", config.q_size(), hidden, spec.qkv_bias);
    linear(layer + "self_attn.k_proj", config.kv_size(), hidden, spec.qkv_bias);
    linear(layer + "self_attn.v_proj", config.kv_size(), hidden, spec.qkv_bias);
    linear(layer + "self_attn.o_proj", hidden, config.q_size(), spec.output_bias);
    if (spec.query_key_norm) {
      shapes[layer + "self_attn.q_norm.weight"] = {config.head_dim};
      shapes[layer + "self_attn.k_norm.weight"] = {config.head_dim};
    }
    linear(layer + "mlp.gate_proj", ffn, hidden, spec.mlp_bias);
    linear(layer + "mlp.up_proj", ffn, hidden, spec.mlp_bias);
    linear(layer + "mlp.down_proj", hidden, ffn, spec.mlp_bias);
  }
  return shapes;
}

const char* SafetensorsName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "F32";
    case DType::kBFloat16:
      return "BF16";
    case DType::kFloat16:
      return "F16";
  }
  return "";
}

}  // namespace

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "espalier-test-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  REQUIRE(stream);
}

std::string SafetensorsWithHeader(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + data;
}

std::string Safetensors(const Tensors& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsWithHeader(header.dump(), data);
}

nlohmann::json TinyConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 40},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 32},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"tie_word_embeddings", false},
          {"attention_bias", true},
          {"mlp_bias", false},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"torch_dtype", "float32"}};
}

Tensors HashedTensors(const nlohmann::json& config, uint64_t seed, DType dtype) {
  const auto parsed = ParseModelConfig(config.dump());
  REQUIRE(parsed.ok());
  const auto source = MakeHashedWeights(seed, dtype);
  Tensors tensors;
  for (const auto& [name, shape] : TensorShapes(*parsed)) {
    const auto tensor = source->Get(name, shape, dtype);
    REQUIRE(tensor.ok());
    const HostTensor& host = tensor->tensor;
    const auto bytes = static_cast<size_t>(host.rows * host.cols) * SizeOf(dtype);
    tensors[name] = {SafetensorsName(dtype), shape, std::string(static_cast<const char*>(host.data), bytes)};
  }
  return tensors;
}

void WriteModel(const TempFolder& folder, const nlohmann::json& config, const Tensors& tensors,
                size_t shards) {
  WriteFile(folder.File("config.json"), config.dump(2));
  if (shards == 1) {
    WriteFile(folder.File("model.safetensors"), Safetensors(tensors));
    return;
  }
  std::vector<Tensors> parts(shards);
  nlohmann::json weight_map = nlohmann::json::object();
  size_t next = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t shard = next++ % shards;
    parts[shard].emplace(name, tensor);
    weight_map[name] = "model-" + std::to_string(shard) + ".safetensors";
  }
  for (size_t i = 0; i < shards; ++i) {
    WriteFile(folder.File("model-" + std::to_string(i) + ".safetensors"), Safetensors(parts[i]));
  }
  const nlohmann::json index = {{"metadata", nlohmann::json::object()}, {"weight_map", weight_map}};
  WriteFile(folder.File("model.safetensors.index.json"), index.dump());
}

Tensors TinyTensors() { return HashedTensors(TinyConfig(), 1, DType::kFloat32); }

RunnerOptions RefOptions() {
  RunnerOptions options;
  options.backend.name = "ref";
  options.backend.dtype = DType::kFloat32;
  options.backend.max_rows = 16;
  options.kv_blocks = 4;
  return options;
}

void RequireLoads(const TempFolder& folder) {
  const auto runner = LoadModel(folder.path(), RefOptions());
  if (!runner) FAIL(runner.error().ToString());
}

void CheckRefused(const TempFolder& folder, const std::string& file, const std::string& message) {
  const auto runner = LoadModel(folder.path(), RefOptions());
  REQUIRE(!runner.ok());
  const Error& error = runner.error();
  INFO(error.ToString());
  CHECK(error.code == ErrorCode::kInvalidArgument);
  CHECK(error.field == (file.empty() ? folder.path() : folder.File(file).string()));
  CHECK(error.message.find(message) == 0);
  CHECK(error.ToString().find('\n') == std::string::npos);
}

}  // namespace espalier::test
