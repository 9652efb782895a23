// What config.json says of the layers of each family, and what of it is refused.
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/backend_runner.h"
#include "model/config.h"
#include "model/families/family.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

using nlohmann::json;

ModelConfig Parsed(const json& config) {
  auto parsed = ParseModelConfig(config.dump());
  if (!parsed) FAIL(parsed.error().ToString());
  return *parsed;
}

std::string Refusal(json config, const json& changes) {
  config.update(changes);
  const auto parsed = ParseModelConfig(config.dump());
  return parsed.ok() ? "" : parsed.error().message;
}

// Of each layer.
template <typename T>
std::vector<T> Each(const ModelConfig& config, T LayerSpec::*member) {
  std::vector<T> values;
  for (const LayerSpec& layer : config.layers) values.push_back(layer.*member);
  return values;
}

// A small config.json of a family, in the form of transformers 5.
json Small(const std::string& model_type, const std::string& architecture) {
  json config = TinyConfig();
  config["model_type"] = model_type;
  config["architectures"] = {architecture};
  config["num_hidden_layers"] = 4;
  for (const char* key : {"attention_bias", "mlp_bias", "rope_theta", "rope_scaling"}) config.erase(key);
  return config;
}
json Mistral() {
  json config = Small("mistral", "MistralForCausalLM");
  config["sliding_window"] = nullptr;
  return config;
}
json Qwen2() { return Small("qwen2", "Qwen2ForCausalLM"); }
json Qwen3() { return Small("qwen3", "Qwen3ForCausalLM"); }
json SmolLm3() { return Small("smollm3", "SmolLM3ForCausalLM"); }

TEST_CASE("every family is found by its model type and both names of its architecture") {
  for (const Family* family : Families()) {
    INFO(family->model_type);
    CHECK(FindModelType(family->model_type) == family);
    CHECK(FindArchitecture(family->architecture) == family);
    CHECK(FindArchitecture(family->base_architecture) == family);
    json config = Small(family->model_type, family->base_architecture);
    CHECK(Parsed(config).layer_count() == 4);
    config.erase("model_type");
    CHECK(Parsed(config).layer_count() == 4);
    config.erase("architectures");
    config["model_type"] = family->model_type;
    CHECK(Parsed(config).layer_count() == 4);
  }
  CHECK(FindModelType("gemma3_text") == nullptr);
  CHECK(FindArchitecture("") == nullptr);
}

// Counts of the published models, and of those that transformers makes where config.json says nothing.
TEST_CASE("missing keys have the family's defaults, and parameters are counted as published") {
  CHECK(Parsed({{"model_type", "mistral"}}).Parameters() == 7241732096);  // Mistral 7B v0.1
  CHECK(Parsed({{"model_type", "mistral"}, {"vocab_size", 32768}}).Parameters() == 7248023552);  // v0.3
  CHECK(Parsed({{"model_type", "qwen2"}}).Parameters() == 12049846272);
  CHECK(Parsed({{"model_type", "qwen2"},
                {"vocab_size", 152064},
                {"hidden_size", 3584},
                {"intermediate_size", 18944},
                {"num_hidden_layers", 28},
                {"num_attention_heads", 28},
                {"num_key_value_heads", 4}})
            .Parameters() == 7615616512);  // Qwen2.5 7B
  CHECK(Parsed({{"model_type", "qwen3"}}).Parameters() == 12049461248);
  CHECK(Parsed({{"model_type", "qwen3"},
                {"hidden_size", 1024},
                {"intermediate_size", 3072},
                {"num_hidden_layers", 28},
                {"num_attention_heads", 16},
                {"num_key_value_heads", 8},
                {"tie_word_embeddings", true}})
            .Parameters() == 596049920);                                  // Qwen3 0.6B
  CHECK(Parsed({{"model_type", "smollm3"}}).Parameters() == 3075098624);  // SmolLM3 3B

  const ModelConfig mistral = Parsed({{"model_type", "mistral"}});
  CHECK(mistral.max_positions == 131072);
  CHECK(mistral.kv_heads == 8);
  CHECK(mistral.head_dim == 128);
  CHECK(mistral.layers.back().window == 4096);
  CHECK(Parsed({{"model_type", "mistral"}, {"num_key_value_heads", nullptr}}).kv_heads == 32);
  const ModelConfig qwen2 = Parsed({{"model_type", "qwen2"}});
  CHECK(qwen2.bos_token_id == -1);
  CHECK(qwen2.eos_token_ids.empty());
  CHECK(qwen2.layers.back().window == 0);
  const ModelConfig qwen3 = Parsed({{"model_type", "qwen3"}, {"hidden_size", 1024}});
  CHECK(qwen3.head_dim == 128);
  CHECK(qwen3.rope.theta == 10000.0);
  const ModelConfig smollm3 = Parsed({{"model_type", "smollm3"}});
  CHECK(smollm3.rope.theta == 2000000.0);
  CHECK(smollm3.tie_word_embeddings);
  CHECK(smollm3.eos_token_ids == std::vector<int32_t>{128001});
  CHECK(smollm3.layers.back().window == 0);
}

// config.json of published models, in the form of transformers 4.
TEST_CASE("the config.json of models that people use is read") {
  const ModelConfig mistral = Parsed(json::parse(R"({"architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32768})"));  // Mistral 7B Instruct v0.3
  CHECK(mistral.layers.back().window == 0);
  CHECK(mistral.rope.theta == 1000000.0);
  const ModelConfig qwen2 = Parsed(json::parse(R"({"architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
    "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
    "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
    "vocab_size": 151936})"));  // Qwen2.5 0.5B Instruct
  CHECK(qwen2.Parameters() == 494032768);
  CHECK(qwen2.layers.back().window == 0);
  const ModelConfig qwen3 =
      Parsed(json::parse(R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 9728,
    "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32,
    "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})"));  // Qwen3 4B
  CHECK(qwen3.q_size() == 4096);
  CHECK(qwen3.Parameters() == 4022468096);
  json smollm3 = json::parse(R"({"architectures": ["SmolLM3ForCausalLM"], "attention_bias": false,
    "attention_dropout": 0.0, "bos_token_id": null, "eos_token_id": 128012, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 65536,
    "max_window_layers": 28, "mlp_bias": false, "model_type": "smollm3", "no_rope_layer_interval": 4,
    "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "pad_token_id": 128004,
    "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 5000000.0,
    "sliding_window": null, "torch_dtype": "bfloat16", "use_cache": false, "use_sliding_window": false,
    "vocab_size": 128256})");  // SmolLM3 3B, but for two lists
  for (int i = 0; i < 36; ++i) {
    smollm3["layer_types"].push_back("full_attention");
    smollm3["no_rope_layers"].push_back(i % 4 == 3 ? 0 : 1);
  }
  CHECK(Parsed(smollm3).Parameters() == 3075098624);
  CHECK(!Parsed(smollm3).layers[35].rotary);
}

TEST_CASE("each family has the biases and norms that are its own") {
  const auto layer = [](const json& config) { return Parsed(config).layers.back(); };
  const auto biases = [&](const json& config) {
    const LayerSpec spec = layer(config);
    return std::vector<bool>{spec.qkv_bias, spec.output_bias, spec.mlp_bias, spec.query_key_norm};
  };
  CHECK(biases(Mistral()) == std::vector<bool>{false, false, false, false});
  CHECK(biases(Qwen2()) == std::vector<bool>{true, false, false, false});
  CHECK(biases(Qwen3()) == std::vector<bool>{false, false, false, true});
  CHECK(biases(SmolLm3()) == std::vector<bool>{false, false, false, false});
  json config = Qwen3();
  config["attention_bias"] = true;
  CHECK(biases(config) == std::vector<bool>{true, true, false, true});
  config = SmolLm3();
  config.update({{"attention_bias", true}, {"mlp_bias", true}});
  CHECK(biases(config) == std::vector<bool>{true, true, true, false});
  config = Mistral();
  config["attention_bias"] = true;  // transformers' Mistral has none whatever this says
  CHECK(biases(config) == std::vector<bool>{false, false, false, false});
}

TEST_CASE("SmolLM3 turns the layers that no_rope_layers lists, else all but every fourth") {
  const auto turned = [](const json& changes) {
    json config = SmolLm3();
    config.update(changes);
    return Each(Parsed(config), &LayerSpec::rotary);
  };
  CHECK(turned(json::object()) == std::vector<bool>{true, true, true, false});
  CHECK(turned({{"no_rope_layer_interval", 2}}) == std::vector<bool>{true, false, true, false});
  CHECK(turned({{"no_rope_layers", {0, 0, 1, 1}}}) == std::vector<bool>{false, false, true, true});
  // Where both are there the list counts, and of a longer one its beginning.
  CHECK(turned({{"no_rope_layers", {1, 0, 1, 1, 0, 0}}, {"no_rope_layer_interval", 1}}) ==
        std::vector<bool>{true, false, true, true});
  CHECK(turned({{"no_rope_layers", nullptr}}) == std::vector<bool>{true, true, true, false});
  for (const json& list : {json(3), json({1, 1, 1}), json::object()}) {
    CHECK(Refusal(SmolLm3(), {{"no_rope_layers", list}}) ==
          "no_rope_layers: must be a list with an entry for each layer");
  }
  CHECK(Refusal(SmolLm3(), {{"no_rope_layers", {1, 1, 2, 1}}}) == "no_rope_layers: must hold 0 and 1 only");
  CHECK(Refusal(SmolLm3(), {{"no_rope_layers", {1, 1, true, 1}}}) ==
        "no_rope_layers: must hold 0 and 1 only");
  CHECK(Refusal(SmolLm3(), {{"no_rope_layer_interval", 0}}).find("no_rope_layer_interval: must be") == 0);
}

TEST_CASE("windows are read as each family has them") {
  const auto windows = [](json config, const json& changes) {
    config.update(changes);
    return Each(Parsed(config), &LayerSpec::window);
  };
  using Widths = std::vector<int32_t>;
  const Widths none = {0, 0, 0, 0};
  CHECK(windows(Mistral(), json::object()) == none);
  CHECK(windows(Mistral(), {{"sliding_window", 64}}) == Widths{64, 64, 64, 64});
  json mistral = Mistral();
  mistral.erase("sliding_window");
  CHECK(Each(Parsed(mistral), &LayerSpec::window) == Widths{4096, 4096, 4096, 4096});

  for (const json& config : {Qwen2(), Qwen3()}) {
    CHECK(windows(config, {{"sliding_window", 64}, {"max_window_layers", 1}}) == none);
    const json in_use = {{"use_sliding_window", true}, {"sliding_window", 64}, {"max_window_layers", 1}};
    CHECK(windows(config, in_use) == Widths{0, 64, 64, 64});
    CHECK(windows(config, {{"use_sliding_window", true}}) == none);  // from layer 28 on
    CHECK(windows(config, {{"use_sliding_window", true}, {"max_window_layers", 3}}) == Widths{0, 0, 0, 4096});
    CHECK(windows(config,
                  {{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}}) ==
          none);
    json listed = in_use;
    listed["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
    CHECK(windows(config, listed) == Widths{64, 0, 0, 64});
  }
  CHECK(windows(SmolLm3(), {{"use_sliding_window", true}}) == none);
  CHECK(windows(SmolLm3(), {{"use_sliding_window", true}, {"sliding_window", 64}}) == Widths{0, 0, 0, 64});
}

TEST_CASE("what changes a family's results and is not served is refused by name") {
  const json all_sliding = {"sliding_attention", "sliding_attention", "sliding_attention",
                            "sliding_attention"};
  for (const json& config : {Qwen2(), Qwen3(), SmolLm3()}) {
    CHECK(Refusal(config, {{"layer_types", {"full_attention"}}}) ==
          "layer_types: must be a list with an entry for each layer");
    CHECK(Refusal(config, {{"layer_types", all_sliding}}).find("layer_types: has sliding_attention, but") ==
          0);
    CHECK(Refusal(config, {{"layer_types", {"full_attention", "full_attention", "chunked_attention", 1}}})
              .find("layer_types: chunked_attention is not supported") == 0);
    CHECK(Refusal(config, {{"use_sliding_window", "yes"}}) == "use_sliding_window: must be true or false");
  }
  CHECK(Refusal(Mistral(), {{"sliding_window", 0}}).find("sliding_window: must be an integer from 1") == 0);
  CHECK(Refusal(Mistral(), {{"layer_types", all_sliding}}) == "layer_types: is not supported");
  CHECK(Refusal(Mistral(), {{"use_sliding_window", true}}) == "use_sliding_window: true is not supported");
  for (const json& config : {Mistral(), Qwen2(), Qwen3(), SmolLm3()}) {
    CHECK(Refusal(config, {{"hidden_act", "gelu"}}) == "hidden_act: gelu is not supported; silu is");
    CHECK(Refusal(config, {{"attn_logit_softcapping", 50.0}}) == "attn_logit_softcapping: is not supported");
    CHECK(Refusal(config, {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 4.0}}}})
              .find("rope_parameters.rope_type: yarn is not supported") == 0);
    CHECK(Refusal(config, {{"architectures", {"LlamaForCausalLM"}}})
              .find("architectures: LlamaForCausalLM is not supported where model_type is ") == 0);
  }
}

TEST_CASE("norms of heads must be there where the family has them, and nowhere else") {
  const TempFolder folder;
  Tensors tensors = HashedTensors(Qwen3(), 3, DType::kFloat32);
  WriteModel(folder, Qwen3(), tensors, 1);
  RequireLoads(folder);
  const std::string name = "model.layers.2.self_attn.k_norm.weight";
  REQUIRE(tensors.erase(name) == 1);
  WriteModel(folder, Qwen3(), tensors, 1);
  CheckRefused(folder, "model.safetensors", "tensor " + name + " is missing");
  // A Qwen3 that calls itself a Llama would be computed without its norms.
  tensors = HashedTensors(Qwen3(), 3, DType::kFloat32);
  json config = Qwen3();
  config.update({{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}});
  WriteModel(folder, config, tensors, 1);
  CheckRefused(folder, "model.safetensors",
               "tensor model.layers.0.self_attn.k_norm.weight: is no part of the model");
}

TEST_CASE("biases of Q, K and V that a Qwen2 lacks are zeros, with a note") {
  const TempFolder folder;
  Tensors tensors = HashedTensors(Qwen2(), 3, DType::kFloat32);
  std::erase_if(tensors, [](const auto& tensor) { return tensor.first.ends_with(".bias"); });
  WriteModel(folder, Qwen2(), tensors, 1);
  const auto runner = LoadModel(folder.path(), RefOptions());
  REQUIRE(runner.ok());
  REQUIRE((*runner)->info().notes.size() == 3);
  CHECK((*runner)->info().notes.front().find("no layer has self_attn.q_proj.bias, which config.json") == 0);
}

}  // namespace
}  // namespace espalier::test
