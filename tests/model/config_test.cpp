#include "model/config.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>

#include "model/rope.h"
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

// The message of the refusal; it must be one line that names the file.
std::string RefusalOfText(const std::string& text) {
  const auto parsed = ParseModelConfig(text);
  REQUIRE(!parsed.ok());
  CHECK(parsed.error().code == ErrorCode::kInvalidArgument);
  CHECK(parsed.error().field == "config.json");
  CHECK(parsed.error().message.find('\n') == std::string::npos);
  return parsed.error().message;
}

std::string Refusal(const json& changes) {
  json config = TinyConfig();
  config.update(changes);
  return RefusalOfText(config.dump());
}

TEST_CASE("missing keys have the defaults of transformers") {
  const ModelConfig config = Parsed({{"model_type", "llama"}});
  CHECK(config.vocab_size == 32000);
  CHECK(config.hidden_size == 4096);
  CHECK(config.intermediate_size == 11008);
  CHECK(config.layer_count() == 32);
  CHECK(config.query_heads == 32);
  CHECK(config.kv_heads == 32);
  CHECK(config.head_dim == 128);
  CHECK(config.max_positions == 2048);
  CHECK(config.rms_norm_epsilon == 1e-6F);
  CHECK(!config.tie_word_embeddings);
  CHECK(!config.layers.back().qkv_bias);
  CHECK(!config.layers.back().output_bias);
  CHECK(!config.layers.back().mlp_bias);
  CHECK(config.rope.type == RopeType::kDefault);
  CHECK(config.rope.theta == 10000.0);
  CHECK(config.bos_token_id == 1);
  CHECK(config.eos_token_ids == std::vector<int32_t>{2});
  CHECK(config.Parameters() == 6738415616);  // Llama 2 7B
}

TEST_CASE("a config reads the same in the forms of transformers 4 and 5") {
  const json llama3 = {{"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  json old_form = {{"model_type", "llama"},
                   {"hidden_size", 2048},
                   {"num_attention_heads", 32},
                   {"num_key_value_heads", 8},
                   {"num_hidden_layers", 16},
                   {"intermediate_size", 8192},
                   {"vocab_size", 128256},
                   {"tie_word_embeddings", true},
                   {"max_position_embeddings", 131072},
                   {"eos_token_id", {128001, 128008, 128009}},
                   {"bos_token_id", 128000}};
  json new_form = old_form;
  old_form["torch_dtype"] = "bfloat16";
  old_form["rope_theta"] = 500000.0;
  old_form["rope_scaling"] = llama3;
  old_form["rope_scaling"]["rope_type"] = "llama3";
  new_form["dtype"] = "bfloat16";
  new_form["rope_parameters"] = llama3;
  new_form["rope_parameters"].update({{"rope_type", "llama3"}, {"rope_theta", 500000.0}});
  for (const json& form : {old_form, new_form}) {
    const ModelConfig config = Parsed(form);
    CHECK(config.rope.type == RopeType::kLlama3);
    CHECK(config.rope.theta == 500000.0);
    CHECK(config.rope.factor == 32.0);
    CHECK(config.rope.low_freq_factor == 1.0);
    CHECK(config.rope.high_freq_factor == 4.0);
    CHECK(config.rope.original_max_positions == 8192);
    CHECK(config.head_dim == 64);
    CHECK(config.eos_token_ids == std::vector<int32_t>{128001, 128008, 128009});
    CHECK(config.Parameters() == 1235814400);  // Llama 3.2 1B
  }
}

TEST_CASE("rope_scaling with the older key type, and null, are read") {
  json config = TinyConfig();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  CHECK(Parsed(config).rope.type == RopeType::kLinear);
  CHECK(Parsed(config).rope.factor == 2.5);
  config["rope_scaling"] = nullptr;
  CHECK(Parsed(config).rope.type == RopeType::kDefault);
}

TEST_CASE("end tokens are a number, a list or none, and generation_config.json has the last word") {
  json config = TinyConfig();
  config["eos_token_id"] = {5, 7, 5};
  ModelConfig parsed = Parsed(config);
  CHECK(parsed.eos_token_ids == std::vector<int32_t>{5, 7});
  config["eos_token_id"] = nullptr;
  CHECK(Parsed(config).eos_token_ids.empty());
  REQUIRE(ApplyGenerationConfig(R"({"eos_token_id": [3, 4]})", "generation_config.json", parsed).ok());
  CHECK(parsed.eos_token_ids == std::vector<int32_t>{3, 4});
  CHECK(parsed.bos_token_id == 1);
  REQUIRE(ApplyGenerationConfig("{}", "generation_config.json", parsed).ok());
  CHECK(parsed.eos_token_ids == std::vector<int32_t>{3, 4});
  const auto refused = ApplyGenerationConfig(R"({"eos_token_id": "4"})", "generation_config.json", parsed);
  REQUIRE(!refused.ok());
  CHECK(refused.error().ToString() ==
        "generation_config.json: eos_token_id: must be a token id or a list of token ids");
}

TEST_CASE("token ids below zero mean none, and those beyond the vocabulary are passed over with a note") {
  json config = TinyConfig();
  config["eos_token_id"] = -1;
  config["bos_token_id"] = -1;
  ModelConfig parsed = Parsed(config);
  CHECK(parsed.eos_token_ids.empty());
  CHECK(parsed.bos_token_id == -1);
  CHECK(parsed.notes.empty());
  config["eos_token_id"] = {2, 40, 39, 18446744073709551615U, -7};
  config["bos_token_id"] = 40;
  parsed = Parsed(config);
  CHECK(parsed.eos_token_ids == std::vector<int32_t>{2, 39});
  CHECK(parsed.bos_token_id == -1);
  REQUIRE(parsed.notes.size() == 2);
  CHECK(parsed.notes.front() ==
        "config.json: eos_token_id 40 lies beyond the vocabulary of 40 tokens and ends no text");
}

TEST_CASE("a type left to the tensors, and a LlamaModel without its wrapper, are read") {
  json config = TinyConfig();
  config["torch_dtype"] = "auto";
  config["architectures"] = {"LlamaModel"};
  CHECK(Parsed(config).hidden_size == 32);
  config["torch_dtype"] = "bfloat16";
  config["dtype"] = nullptr;
  CHECK(Parsed(config).hidden_size == 32);
}

TEST_CASE("rope type dynamic is that of the length the model was trained for, in both forms") {
  json config = TinyConfig();
  config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  CHECK(Parsed(config).rope.type == RopeType::kDynamic);
  CHECK(Parsed(config).rope.original_max_positions == 128);
  CHECK(RotaryInverseFrequencies(Parsed(config).rope, 32) ==
        RotaryInverseFrequencies(Parsed(TinyConfig()).rope, 32));
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "dynamic"},
                               {"factor", 2.0},
                               {"rope_theta", 500.0},
                               {"original_max_position_embeddings", 64}};
  CHECK(Parsed(config).rope.original_max_positions == 64);
  CHECK(Parsed(config).rope.theta == 500.0);
  config["rope_parameters"].erase("factor");
  CHECK(Refusal(config) == "rope_parameters.factor: is missing");
}

TEST_CASE("what cannot be served exactly is refused by name") {
  struct Case {
    json changes;
    std::string message;
  };
  const std::vector<Case> cases = {
      {{{"architectures", {"MistralForCausalLM"}}},
       "architectures: MistralForCausalLM is not supported where model_type is llama"},
      {{{"architectures", {"GemmaForCausalLM"}}}, "architectures: GemmaForCausalLM is not supported; Llama"},
      {{{"architectures", "LlamaForCausalLM"}}, "architectures: must be"},
      {{{"model_type", "qwen2_moe"}}, "model_type: qwen2_moe is not supported; llama, mistral, "},
      {{{"layer_types", {"full_attention"}}}, "layer_types: is not supported"},
      {{{"hidden_act", "gelu"}}, "hidden_act: gelu is not supported"},
      {{{"quantization_config", {{"bits", 4}}}}, "quantization_config: quantised weights are not supported"},
      {{{"sliding_window", 4096}}, "sliding_window: is not supported"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor: values other than 1"},
      {{{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}},
       "rope_scaling.rope_type: yarn is not supported"},
      {{{"rope_parameters", {{"rope_type", "longrope"}}}},
       "rope_parameters.rope_type: longrope is not supported"},
      {{{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
       "rope_parameters.full_attention: rotary parameters by layer type"},
      {{{"torch_dtype", "float8_e4m3fn"}}, "torch_dtype: float8_e4m3fn is not supported"},
  };
  for (const Case& c : cases) CHECK(Refusal(c.changes).find(c.message) == 0);
}

TEST_CASE("wrong values are refused and the key is named") {
  const json wrong_sizes = {0, -1, 1.5, "64", true, 4294967296, 18446744073709551615U, {1}, json::object()};
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings"}) {
    for (const json& value : wrong_sizes) {
      CHECK(Refusal(json{{key, value}}).find(std::string(key) + ": must be an integer from") == 0);
    }
  }
  for (const json& value : {json(0), json(-1e-5), json("1e-5"), json(1e300), json(true)}) {
    CHECK(Refusal(json{{"rms_norm_eps", value}}).find("rms_norm_eps: must be a positive number") == 0);
    CHECK(Refusal(json{{"rope_theta", value}}).find("rope_theta: must be a positive number") == 0);
    CHECK(Refusal(json{{"rope_scaling", {{"type", "linear"}, {"factor", value}}}})
              .find("rope_scaling.factor") == 0);
  }
  for (const char* key : {"tie_word_embeddings", "attention_bias", "mlp_bias"}) {
    CHECK(Refusal(json{{key, 1}}) == std::string(key) + ": must be true or false");
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    for (const json& value : {json("2"), json(2.0), json(true), json(json::object())}) {
      CHECK(Refusal(json{{key, value}}).find(std::string(key) + ": must be a token id") == 0);
    }
  }
  CHECK(Refusal(json{{"num_key_value_heads", 3}}) == "num_key_value_heads: must divide num_attention_heads");
  CHECK(Refusal(json{{"head_dim", 33}}) == "head_dim: must be even");
  CHECK(Refusal(json{{"head_dim", nullptr}, {"hidden_size", 33}}).find("hidden_size: must be a multiple") ==
        0);
  CHECK(Refusal(json{{"rope_scaling", {{"type", "linear"}}}}) == "rope_scaling.factor: is missing");
  CHECK(Refusal(json{{"rope_scaling", {{"type", "llama3"}, {"factor", 2.0}}}}) ==
        "rope_scaling.low_freq_factor: is missing");
  CHECK(Refusal(json{{"rope_scaling", "linear"}}) == "rope_scaling: must be an object");
}

TEST_CASE("what is not one JSON object is refused in one line") {
  CHECK(RefusalOfText("").find("is not valid JSON") == 0);
  CHECK(RefusalOfText("{\"vocab_size\": ").find("is not valid JSON: error at byte") == 0);
  CHECK(RefusalOfText("[1]") == "must hold a JSON object");
  CHECK(RefusalOfText("{}").find("architectures: is missing") == 0);
  CHECK(RefusalOfText("{\"a\": 1, \"a\": 2}") == "key a appears twice");
  CHECK(RefusalOfText("{\"a\\n\": 1, \"a\\n\": 2}") == "key a\\x0a appears twice");
  CHECK(RefusalOfText(std::string(100000, '[')) == "JSON is nested too deeply");
  CHECK(RefusalOfText("{\"vocab_size\": \"\xff\"}").find("is not valid JSON") == 0);
  const std::string valid = TinyConfig().dump();
  for (const char* behind : {"x", "{}", ",", "\v"}) {
    CHECK(RefusalOfText(valid + behind).find("is not valid JSON") == 0);
  }
  // The parser takes a NUL byte for the end.
  for (const std::string& behind : {std::string("\0", 1), std::string("\0, \"x\": 1}", 10)}) {
    CHECK(RefusalOfText(valid + behind).find("is not valid JSON: a NUL byte at byte") == 0);
  }
  CHECK(ParseModelConfig(valid + " \t\r\n").ok());
}

TEST_CASE("rotary frequencies follow their formulas") {
  const RopeConfig plain{.theta = 10000.0};
  const auto frequencies = RotaryInverseFrequencies(plain, 8);
  REQUIRE(frequencies.size() == 4);
  CHECK(frequencies[0] == 1.0F);
  CHECK(std::abs(frequencies[2] - 0.01F) < 1e-8F);
  RopeConfig scaled = plain;
  scaled.type = RopeType::kLinear;
  scaled.factor = 4.0;
  CHECK(RotaryInverseFrequencies(scaled, 8)[0] == 0.25F);

  // llama3: waves shorter than context / 4 are kept, longer than the context divided by the factor, and
  // blended between. Wavelengths here: 6.3, 62.8, 628, 6283.
  scaled.type = RopeType::kLlama3;
  scaled.factor = 8.0;
  scaled.original_max_positions = 200;
  const auto blended = RotaryInverseFrequencies(scaled, 8);
  const double smooth = (200.0 / (20.0 * std::numbers::pi) - 1.0) / 3.0;
  CHECK(blended[0] == frequencies[0]);
  CHECK(std::abs(blended[1] - 0.1 * ((1.0 - smooth) / 8.0 + smooth)) < 1e-8);
  CHECK(blended[2] == frequencies[2] / 8.0F);
  CHECK(blended[3] == frequencies[3] / 8.0F);
}

// Invariants of every config that is accepted, so that sizes derived from it cannot overflow.
void CheckAccepted(const ModelConfig& config) {
  CHECK(config.query_heads % config.kv_heads == 0);
  CHECK(config.head_dim % 2 == 0);
  CHECK(config.layer_count() >= 1);
  CHECK(config.Parameters() > 0);
  for (const int32_t id : config.eos_token_ids) CHECK((id >= 0 && id < config.vocab_size));
  CHECK((config.bos_token_id >= -1 && config.bos_token_id < config.vocab_size));
}

TEST_CASE("random damage to config.json is refused or gives a sound config") {
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  std::printf("config.json damage: seed %u\n", seed);
  std::mt19937 random(seed);
  json config = TinyConfig();
  config["rope_scaling"] = {
      {"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  config["eos_token_id"] = {2, 3};
  const std::string valid = config.dump();
  const std::string alphabet = "{}[]\",:0123456789.-eE \\utrfalsn\n\xff\x00";
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = valid;
    const auto edits = 1 + random() % 4;
    for (uint32_t edit = 0; edit < edits; ++edit) {
      const size_t at = random() % text.size();
      const char c = alphabet[random() % alphabet.size()];
      switch (random() % 4) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1 + random() % 12, c);
          break;
        case 2:
          text.erase(at, 1 + random() % 6);
          break;
        default:
          text.erase(at, random() % text.size());
          break;
      }
      if (text.empty()) text.push_back('{');
    }
    const auto parsed = ParseModelConfig(text);
    if (parsed.ok()) {
      ++accepted;
      CheckAccepted(*parsed);
    } else {
      CHECK(parsed.error().message.find('\n') == std::string::npos);
    }
  }
  CHECK(accepted > 0);
}

}  // namespace
}  // namespace espalier::test
