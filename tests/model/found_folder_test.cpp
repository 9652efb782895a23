// Folders as they are found, treated as transformers treats them.
#include <fstream>
#include <functional>

#include "model/backend_runner.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

using nlohmann::json;

// What a runner says in its log of what it passed over.
std::vector<std::string> NotesOf(const TempFolder& folder) {
  const auto runner = LoadModel(folder.path(), RefOptions());
  if (!runner) FAIL(runner.error().ToString());
  return (*runner)->info().notes;
}

TEST_CASE("tensors that transformers passes over are passed over, and noted once") {
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  WriteModel(folder, TinyConfig(), tensors);
  CHECK(NotesOf(folder).empty());
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {16}, std::string(64, '\0')};
  tensors["model.layers.0.self_attn.masked_bias"] = {"F32", {}, std::string(4, '\1')};
  tensors["model.layers.2.input_layernorm.weight"] = tensors.at("model.norm.weight");
  tensors["model.layers.1.mlp.up_proj.bias"] = {"F32", {48}, std::string(48 * 4, '\0')};
  tensors["v_head.summary.weight"] = {"F64", {1}, std::string(8, '\1')};
  tensors["empty"] = {"F32", {0, 4}, ""};
  WriteModel(folder, TinyConfig(), tensors);
  CHECK(NotesOf(folder) ==
        std::vector<std::string>{"passed over 6 tensors that the model does not use, as transformers does: "
                                 "empty, model.layers.0.self_attn.masked_bias, "
                                 "model.layers.0.self_attn.rotary_emb.inv_freq, ..."});
}

TEST_CASE("biases that config.json describes and no layer has are zeros") {
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  tensors.erase("model.layers.0.self_attn.o_proj.bias");
  WriteModel(folder, TinyConfig(), tensors);
  CheckRefused(folder, "model.safetensors", "tensor model.layers.0.self_attn.o_proj.bias is missing");
  tensors.erase("model.layers.1.self_attn.o_proj.bias");
  tensors.erase("model.layers.0.self_attn.k_proj.bias");
  tensors.erase("model.layers.1.self_attn.k_proj.bias");
  json config = TinyConfig();
  config["mlp_bias"] = true;
  WriteModel(folder, config, tensors);
  const auto notes = NotesOf(folder);
  REQUIRE(notes.size() == 5);
  CHECK(notes[0] ==
        "no layer has self_attn.k_proj.bias, which config.json describes: zeros stand for it, as "
        "in transformers");
}

TEST_CASE("a LlamaModel is its tensors without a prefix, and needs a head or to be tied") {
  const TempFolder folder;
  Tensors tensors;
  for (const auto& [name, tensor] : TinyTensors()) {
    tensors[name.starts_with("model.") ? name.substr(6) : name] = tensor;
  }
  json config = TinyConfig();
  config["architectures"] = {"LlamaModel"};
  WriteModel(folder, config, tensors);
  CHECK(NotesOf(folder).empty());
  tensors.erase("lm_head.weight");
  WriteModel(folder, config, tensors);
  CheckRefused(folder, "model.safetensors", "tensor lm_head.weight is missing");
  config["tie_word_embeddings"] = true;
  WriteModel(folder, config, tensors);
  RequireLoads(folder);
}

TEST_CASE("rope type dynamic is served within the length that it was trained for, when asked for") {
  const TempFolder folder;
  json config = TinyConfig();
  config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  WriteModel(folder, config, TinyTensors());
  CheckRefused(folder, "config.json", "rope type dynamic is served only within the 128 positions");
  RunnerOptions options = RefOptions();
  options.max_positions = 129;
  CHECK(!LoadModel(folder.path(), options).ok());
  options.max_positions = 128;
  const auto runner = LoadModel(folder.path(), options);
  if (!runner) FAIL(runner.error().ToString());
}

TEST_CASE("an index says which files there are; what they hold is what counts") {
  const std::string index_file = "model.safetensors.index.json";
  const std::string name = "model.norm.weight";
  const std::string inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  const auto with_index = [&](const std::function<void(json&)>& change) {
    WriteModel(folder, TinyConfig(), tensors, 2);
    json index;
    std::ifstream(folder.File(index_file)) >> index;
    change(index["weight_map"]);
    WriteFile(folder.File(index_file), index.dump());
  };
  with_index([&](json& map) { map.erase(name); });
  RequireLoads(folder);
  with_index([&](json& map) {
    map[name] = map[name] == "model-0.safetensors" ? "model-1.safetensors" : "model-0.safetensors";
  });
  RequireLoads(folder);
  with_index([&](json& map) { map[inv_freq] = "model-1.safetensors"; });
  RequireLoads(folder);
  tensors.erase(name);
  with_index([&](json& map) { map[name] = "model-1.safetensors"; });
  CheckRefused(folder, "model-1.safetensors",
               "tensor model.norm.weight is missing, though model.safetensors.index.json lists it");
  with_index([](json&) {});
  CheckRefused(folder, index_file, "tensor model.norm.weight is missing");

  tensors = TinyTensors();
  with_index([&](json& map) { map.erase(name); });
  for (const char* file : {"model-0.safetensors", "model-1.safetensors"}) {
    Tensors half;
    size_t i = 0;
    for (const auto& [tensor, bytes] : tensors) {
      if (i++ % 2 == (file[6] == '0' ? 0U : 1U) || tensor == name) half.emplace(tensor, bytes);
    }
    WriteFile(folder.File(file), Safetensors(half));
  }
  CheckRefused(folder, "model-1.safetensors",
               "tensor model.norm.weight: " + folder.File("model-0.safetensors").string() + " holds it too");
  json tied = TinyConfig();
  tied["tie_word_embeddings"] = true;
  tensors.erase("lm_head.weight");
  with_index([](json& map) { map["lm_head.weight"] = "model-0.safetensors"; });
  WriteFile(folder.File("config.json"), tied.dump());
  RequireLoads(folder);
}

}  // namespace
}  // namespace espalier::test
