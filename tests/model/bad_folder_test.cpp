// Folders that must be refused: each with one line that names the file and what is wrong in it.
#include <sys/stat.h>

#include <fstream>
#include <functional>

#include "model/backend_runner.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

using nlohmann::json;

TEST_CASE("folders are read in every form") {
  for (const size_t shards : {size_t{1}, size_t{3}}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const TempFolder folder;
      WriteModel(folder, TinyConfig(), HashedTensors(TinyConfig(), 1, dtype), shards);
      RequireLoads(folder);
    }
  }
}

TEST_CASE("missing and unreadable files are named") {
  const TempFolder folder;
  CheckRefused(folder, "config.json", "does not exist");
  WriteFile(folder.File("config.json"), TinyConfig().dump());
  CheckRefused(folder, "", "holds neither model.safetensors nor model.safetensors.index.json");
  std::filesystem::create_directory(folder.File("model.safetensors"));
  CheckRefused(folder, "model.safetensors", "is a folder, not a file");
  std::filesystem::remove(folder.File("model.safetensors"));
  WriteFile(folder.File("model.safetensors"), "");
  CheckRefused(folder, "model.safetensors", "is too short for a safetensors file");
  std::filesystem::remove(folder.File("config.json"));
  std::filesystem::create_directory(folder.File("config.json"));
  CheckRefused(folder, "config.json", "is a folder, not a file");

  const auto missing = LoadModel(folder.path() + "/nowhere", RefOptions());
  REQUIRE(!missing.ok());
  CHECK(missing.error().ToString() == folder.path() + "/nowhere: does not exist");
}

TEST_CASE("an unsound generation_config.json is named") {
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  WriteFile(folder.File("generation_config.json"), "{\"eos_token_id\": \"end\"}");
  CheckRefused(folder, "generation_config.json", "eos_token_id: must be a token id");
  WriteFile(folder.File("generation_config.json"), "{");
  CheckRefused(folder, "generation_config.json", "is not valid JSON");
}

TEST_CASE("a truncated model.safetensors is refused at every length") {
  const TempFolder folder;
  const std::string whole = Safetensors(TinyTensors());
  WriteFile(folder.File("config.json"), TinyConfig().dump());
  for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 61) {
    WriteFile(folder.File("model.safetensors"), whole.substr(0, length));
    CheckRefused(folder, "model.safetensors", "");
  }
  WriteFile(folder.File("model.safetensors"), whole.substr(0, whole.size() - 1));
  CheckRefused(folder, "model.safetensors", "tensor model.norm.weight: data_offsets end at byte");
  WriteFile(folder.File("model.safetensors"), whole + "x");
  CheckRefused(folder, "model.safetensors", "1 bytes of data belong to no tensor");
  WriteFile(folder.File("model.safetensors"), whole);
  RequireLoads(folder);
}

TEST_CASE("tensors that lack, are too many or have another shape or type are named") {
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  const auto refused = [&](const std::function<void(Tensors&)>& change, const std::string& message) {
    const TempFolder folder;
    Tensors tensors = TinyTensors();
    change(tensors);
    WriteModel(folder, TinyConfig(), tensors);
    CheckRefused(folder, "model.safetensors", message);
  };
  for (const auto& [missing, tensor] : TinyTensors()) {
    refused([&key = missing](Tensors& t) { t.erase(key); }, "tensor " + missing + " is missing");
  }
  refused(
      [&](Tensors& t) {
        t.at(name).shape = {32, 64};
      },
      "tensor " + name + ": has shape [32, 64], config.json asks for [64, 32]");
  refused([&](Tensors& t) { t.at(name).shape = {64 * 32}; },
          "tensor " + name + ": has shape [2048], config.json");
  refused([&](Tensors& t) { t.at(name).shape = {64, 32, 1}; }, "tensor " + name + ": has shape [64, 32, 1]");
  refused(
      [&](Tensors& t) {
        t.at(name) = {"F64", {64, 32}, std::string(64 * 32 * 8, '\0')};
      },
      "tensor " + name + ": dtype F64 is not supported; F32, F16 and BF16 are");
  refused([&](Tensors& t) { t["model.layers.1.self_attn.q_norm.weight"] = t.at("model.norm.weight"); },
          "tensor model.layers.1.self_attn.q_norm.weight: is no part of the model");
  refused([&](Tensors& t) { t["model.norm.bias"] = t.at("model.norm.weight"); },
          "tensor model.norm.bias: is no part of the model");
  refused([&](Tensors& t) { t["lm_head.bias"] = t.at("model.norm.weight"); },
          "tensor lm_head.bias: is no part of the model");
  refused([&](Tensors& t) { t["embed_tokens.weight"] = t.at("model.embed_tokens.weight"); },
          "tensor embed_tokens.weight: stands next to model.embed_tokens.weight");
}

TEST_CASE("a tied vocabulary matrix may be stored under either name, and twice only if equal") {
  json config = TinyConfig();
  config["tie_word_embeddings"] = true;
  const Tensors tied = HashedTensors(config, 1, DType::kFloat32);
  const TensorBytes& embedding = tied.at("model.embed_tokens.weight");
  {
    const TempFolder folder;
    Tensors tensors = tied;
    tensors["lm_head.weight"] = embedding;
    WriteModel(folder, config, tensors);
    RequireLoads(folder);
    tensors.erase("model.embed_tokens.weight");
    WriteModel(folder, config, tensors);
    RequireLoads(folder);
    tensors.erase("lm_head.weight");
    WriteModel(folder, config, tensors);
    CheckRefused(folder, "model.safetensors", "tensor model.embed_tokens.weight is missing");
  }
  const TempFolder folder;
  Tensors tensors = tied;
  tensors["lm_head.weight"] = TinyTensors().at("lm_head.weight");
  WriteModel(folder, config, tensors);
  CheckRefused(folder, "model.safetensors", "tensor lm_head.weight: differs from model.embed_tokens.weight");
}

TEST_CASE("a config that does not fit the weights is refused") {
  const std::pair<const char*, json> changes[] = {{"vocab_size", 41},         {"hidden_size", 64},
                                                  {"intermediate_size", 32},  {"num_hidden_layers", 3},
                                                  {"num_attention_heads", 2}, {"num_key_value_heads", 4},
                                                  {"head_dim", 64},           {"attention_bias", false},
                                                  {"vocab_size", 1 << 24},    {"num_hidden_layers", 4096},
                                                  {"hidden_size", 1 << 20},   {"intermediate_size", 1 << 20}};
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  for (const auto& [key, value] : changes) {
    INFO(key << " " << value);
    json config = TinyConfig();
    config[key] = value;
    WriteFile(folder.File("config.json"), config.dump());
    CheckRefused(folder, "model.safetensors", "tensor ");
  }
}

TEST_CASE("unsound indexes and shards are named") {
  const std::string index_file = "model.safetensors.index.json";
  const std::string name = "model.norm.weight";
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors(), 2);
  RequireLoads(folder);
  json index;
  std::ifstream(folder.File(index_file)) >> index;
  const auto refused = [&](const json& changed, const std::string& file, const std::string& message) {
    WriteFile(folder.File(index_file), changed.dump());
    CheckRefused(folder, file, message);
  };
  refused(json::object(), index_file, "weight_map: must be an object");
  for (const json& shard :
       {json(1), json("../model-0.safetensors"), json(""), json("/etc/passwd"), json("model-0.bin")}) {
    json changed = index;
    changed["weight_map"][name] = shard;
    refused(changed, index_file, "weight_map: model.norm.weight: must be the name of a .safetensors file");
  }
  json changed = index;
  changed["weight_map"][name] = "model-9.safetensors";
  refused(changed, "model-9.safetensors", "does not exist");
  WriteFile(folder.File(index_file), "{");
  CheckRefused(folder, index_file, "is not valid JSON");

  WriteFile(folder.File(index_file), index.dump());
  RequireLoads(folder);
  std::filesystem::resize_file(folder.File("model-1.safetensors"), 1000);
  CheckRefused(folder, "model-1.safetensors", "header of");
}

std::string Refusal(const std::string& folder) {
  const auto runner = LoadModel(folder, RefOptions());
  REQUIRE(!runner.ok());
  CHECK(runner.error().code == ErrorCode::kInvalidArgument);
  return runner.error().ToString();
}

TEST_CASE("what is no model folder is refused with what to do instead") {
  CHECK(
      Refusal("some-org/Some-Model-1B") ==
      "some-org/Some-Model-1B: does not exist; if it is a model on the Hugging Face hub, download it first: "
      "hf download some-org/Some-Model-1B --local-dir Some-Model-1B");
  CHECK(Refusal("./some/where") == "./some/where: does not exist");
  CHECK(Refusal("/no/such") == "/no/such: does not exist");
  CHECK(Refusal("") == "does not exist");
  const TempFolder folder;
  const auto file = [&](const char* name) { return folder.File(name).string(); };
  WriteFile(folder.File("config.json"), TinyConfig().dump());
  CHECK(Refusal(file("config.json")) ==
        file("config.json") + ": is a file; the folder that holds config.json is needed");
  const auto held = [&](const char* name, const std::string& message) {
    WriteFile(folder.File(name), "x");
    const std::string refusal = Refusal(folder.path());
    INFO(refusal);
    CHECK(refusal.find(message) != std::string::npos);
    std::filesystem::remove(folder.File(name));
  };
  held("pytorch_model.bin", "it holds pytorch_model.bin: such files are not read");
  held("consolidated.00.pth", "it holds consolidated.00.pth: such files are not read");
  held("model-00001-of-00002.safetensors",
       "it holds model-00001-of-00002.safetensors, but no index that names it");
  held("adapter_model.safetensors", "must be merged into its base model first");
  held("x.safetensors.incomplete", "it holds x.safetensors.incomplete: a download that has not finished");
  std::filesystem::remove(folder.File("config.json"));
  held("model-Q4_K_M.gguf", "config.json: does not exist; it holds model-Q4_K_M.gguf: GGUF is not read");
  std::filesystem::create_directory(folder.File("snapshots"));
  CHECK(Refusal(folder.path()).find("this is the root of a download cache") != std::string::npos);
}

TEST_CASE("Git LFS pointers are called by their name") {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4321\n";
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  for (const char* name : {"model.safetensors", "generation_config.json", "config.json"}) {
    WriteFile(folder.File(name), pointer);
    CheckRefused(folder, name, "is a Git LFS pointer, not the file itself: run `git lfs pull`");
  }
}

TEST_CASE("a pipe in place of a file is refused, not waited for") {
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  for (const char* name : {"model.safetensors", "config.json"}) {
    std::filesystem::remove(folder.File(name));
    REQUIRE(::mkfifo(folder.File(name).c_str(), 0600) == 0);
    CheckRefused(folder, name, "is a pipe or a device, not a regular file");
  }
}

TEST_CASE("options out of range are named") {
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  const auto refusal = [&](const std::function<void(RunnerOptions&)>& change) {
    RunnerOptions options = RefOptions();
    change(options);
    const auto runner = LoadModel(folder.path(), options);
    REQUIRE(!runner.ok());
    return runner.error().ToString();
  };
  CHECK(refusal([](RunnerOptions& o) { o.block_tokens = 24; }) == "block_tokens: must divide 256");
  CHECK(refusal([](RunnerOptions& o) { o.block_tokens = 0; }) == "block_tokens: must divide 256");
  CHECK(refusal([](RunnerOptions& o) { o.kv_blocks = -1; }) == "kv_blocks: must not be negative");
  CHECK(refusal([](RunnerOptions& o) { o.max_positions = -1; }) == "max_positions: must not be negative");
  // 2 (K and V) * 2 heads * 32 * 4 bytes * 2 layers * 16 tokens
  CHECK(refusal([](RunnerOptions& o) {
          o.kv_blocks = 0;
          o.kv_cache_bytes = 16383;
        }) == "kv_cache_bytes: must be at least 16384, one block");
}

TEST_CASE("the pool and the longest path follow the options") {
  const TempFolder folder;
  WriteModel(folder, TinyConfig(), TinyTensors());
  RunnerOptions options = RefOptions();
  options.kv_blocks = 0;
  options.kv_cache_bytes = 16384 * 3 + 1;
  auto runner = LoadModel(folder.path(), options);
  REQUIRE(runner.ok());
  CHECK((*runner)->info().kv_blocks == 3);
  CHECK((*runner)->info().block_tokens == 16);
  CHECK((*runner)->info().max_positions == 48);
  options.kv_cache_bytes = int64_t{1} << 22;
  runner = LoadModel(folder.path(), options);
  REQUIRE(runner.ok());
  CHECK((*runner)->info().max_positions == 128);
  options.max_positions = 100;
  runner = LoadModel(folder.path(), options);
  REQUIRE(runner.ok());
  CHECK((*runner)->info().max_positions == 100);
}

}  // namespace
}  // namespace espalier::test
