// Folders that must be refused: each with one line that names the file and what is wrong in it.
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>

#include "model/llama_runner.h"
#include "model/safetensors.h"
#include "model/tensor_source.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

using nlohmann::json;
using Tensors = std::map<std::string, TensorBytes>;

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

// Checks that the folder is refused, by an error of that file whose message begins with `message`.
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

Tensors TinyTensors() { return HashedTensors(TinyConfig(), 1, DType::kFloat32); }

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
          "tensor embed_tokens.weight: stands beside model.embed_tokens.weight");
}

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

// --- Values that no weight may have ---

template <typename T>
void SetElement(TensorBytes& tensor, size_t index, T bits) {
  std::memcpy(tensor.bytes.data() + index * sizeof(T), &bits, sizeof(T));
}

TEST_CASE("weights that are not finite are refused by tensor, whatever their type") {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const auto refused = [&](const std::string& tensor, DType dtype, auto bits, size_t index,
                           const std::string& message) {
    const TempFolder folder;
    Tensors tensors = HashedTensors(TinyConfig(), 1, dtype);
    SetElement(tensors.at(tensor), index, bits);
    WriteModel(folder, TinyConfig(), tensors);
    CheckRefused(folder, "model.safetensors", "tensor " + tensor + ": " + message);
  };
  const std::string one = "1 of 1536 values is NaN or infinite; the first at element ";
  for (const uint32_t bits : {0x7fc00000U, 0xffc00001U, 0x7f800000U, 0xff800000U, 0x7f800001U}) {
    refused(name, DType::kFloat32, bits, 1535, one + "1535");
  }
  for (const uint16_t bits : {uint16_t{0x7f80}, uint16_t{0xff80}, uint16_t{0x7fc0}}) {
    refused(name, DType::kBFloat16, bits, 0, one + "0");
  }
  for (const uint16_t bits : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e01}}) {
    refused(name, DType::kFloat16, bits, 700, one + "700");
  }
  refused("model.norm.weight", DType::kFloat32, 0x7fc00000U, 3,
          "1 of 32 values is NaN or infinite; the first at element 3");
  refused("model.layers.0.self_attn.v_proj.bias", DType::kFloat32, 0xff800000U, 5,
          "1 of 64 values is NaN or infinite");
  refused("model.embed_tokens.weight", DType::kFloat32, 0x7f800000U, 9,
          "1 of 1280 values is NaN or infinite");
}

TEST_CASE("the first of many values that are not finite is found in a tensor that several threads read") {
  const std::string name = "model.embed_tokens.weight";
  constexpr int64_t kRows = 1 << 17;
  const TempFolder folder;
  TensorBytes large = {"F32", {kRows, 64}, std::string(size_t{kRows} * 64 * 4, '\1')};
  Tensors tensors = {{name, large}};
  const auto get = [&] {
    WriteModel(folder, TinyConfig(), tensors);
    auto source = OpenCheckpoint(folder.path());
    REQUIRE(source.ok());
    const std::vector<int64_t> shape = {kRows, 64};
    return (*source)->Get(name, shape, DType::kFloat32);
  };
  const auto read = get();
  REQUIRE(read.ok());
  CHECK(std::memcmp(read->tensor.data, large.bytes.data(), large.bytes.size()) == 0);
  for (const size_t index : {size_t{8000000}, size_t{300001}, size_t{5000000}}) {
    SetElement(tensors.at(name), index, 0x7fc00000U);
  }
  const auto refused = get();
  REQUIRE(!refused.ok());
  CHECK(refused.error().message ==
        "tensor " + name + ": 3 of 8388608 values are NaN or infinite; the first at element 300001");
}

TEST_CASE("weights that are too large for the type in which they are kept are refused") {
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  SetElement(tensors.at(name), 7, 0x7f7f8000U);  // rounds to infinity in bfloat16; one less does not
  SetElement(tensors.at(name), 9, 0xff7fffffU);
  WriteModel(folder, TinyConfig(), tensors);
  RequireLoads(folder);  // ref keeps fp32
  RunnerOptions options = RefOptions();
  options.backend.name = "cpu";
  options.backend.dtype = DType::kBFloat16;
  const auto runner = LoadModel(folder.path(), options);
  REQUIRE(!runner.ok());
  if (runner.error().code == ErrorCode::kUnimplemented) return SkipTest(runner.error().ToString());
  CHECK(runner.error().ToString() ==
        folder.File("model.safetensors").string() + ": tensor " + name +
            ": 2 of 1536 values are too large for bfloat16; the first at element 7");
  SetElement(tensors.at(name), 7, 0x7f7f7fffU);
  SetElement(tensors.at(name), 9, 0xff7f7fffU);
  WriteModel(folder, TinyConfig(), tensors);
  CHECK(LoadModel(folder.path(), options).ok());
}

// --- Files that change while they are read ---

TEST_CASE("a file that is cut short or written to while it is read gives an error, never a signal") {
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const std::vector<int64_t> shape = {48, 32};
  const TempFolder folder;
  const std::string path = folder.File("model.safetensors").string();
  WriteModel(folder, TinyConfig(), TinyTensors());
  auto source = OpenCheckpoint(folder.path());
  REQUIRE(source.ok());
  REQUIRE((*source)->Get(name, shape, DType::kFloat32).ok());
  CHECK((*source)->CheckUnchanged().ok());
  std::filesystem::resize_file(path, 9000);
  const auto cut = (*source)->Get(name, shape, DType::kFloat32);
  REQUIRE(!cut.ok());
  CHECK(cut.error().field == path);
  CHECK(cut.error().message.find("was cut short while it was read: it had ") == 0);
  const auto changed = (*source)->CheckUnchanged();
  REQUIRE(!changed.ok());
  CHECK(changed.error().message.find("changed while it was read: it had ") == 0);

  WriteModel(folder, TinyConfig(), TinyTensors());
  source = OpenCheckpoint(folder.path());
  REQUIRE(source.ok());
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::hours(1));
  const auto written = (*source)->CheckUnchanged();
  REQUIRE(!written.ok());
  CHECK(written.error().ToString() == path + ": was written to while it was read");
}

// --- What people give in place of a folder ---

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

// --- The header of a safetensors file ---

std::string HeaderRefusal(const std::string& header, const std::string& data) {
  const std::string bytes = SafetensorsWithHeader(header, data);
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(bytes)), bytes.size(), "x.safetensors");
  if (file.ok()) return "accepted";
  CHECK(file.error().field == "x.safetensors");
  return file.error().message;
}

TEST_CASE("lying safetensors headers are refused") {
  const std::string data(16, 'x');
  const auto tensor = [&](const char* dtype, const char* shape, const char* offsets) {
    return HeaderRefusal(std::string("{\"t\": {\"dtype\": ") + dtype + ", \"shape\": " + shape +
                             ", \"data_offsets\": " + offsets + "}}",
                         data);
  };
  CHECK(tensor("\"F32\"", "[2, 2]", "[0, 16]") == "accepted");
  CHECK(tensor("\"F32\"", "[4]", "[0, 16]") == "accepted");
  CHECK(tensor("\"Q4\"", "[4]", "[0, 16]") == "tensor t: unknown dtype Q4");
  CHECK(tensor("7", "[4]", "[0, 16]") == "tensor t: dtype must be a string");
  for (const char* shape :
       {"[-4]", "[4.0]", "\"4\"", "[\"4\"]", "{}", "null", "[18446744073709551616]", "[1e1]"}) {
    CHECK(tensor("\"F32\"", shape, "[0, 16]") == "tensor t: shape must be a list of non-negative integers");
  }
  for (const char* offsets :
       {"[0]", "[0, 16, 16]", "[-1, 16]", "[0, 1.6e1]", "16", "[0, 18446744073709551615]"}) {
    CHECK(tensor("\"F32\"", "[4]", offsets) == "tensor t: data_offsets must be two non-negative integers");
  }
  // 2^62 * 4 elements * 4 bytes wrap around to 0 and to 16 modulo 2^64.
  CHECK(tensor("\"F32\"", "[4611686018427387904, 4]", "[0, 0]") == "tensor t: shape overflows");
  CHECK(tensor("\"F32\"", "[4611686018427387908]", "[0, 16]") == "tensor t: shape overflows");
  CHECK(tensor("\"F32\"", "[5]", "[0, 16]") ==
        "tensor t: has 16 bytes of data where dtype and shape need 20");
  CHECK(tensor("\"F32\"", "[4]", "[16, 0]") == "tensor t: data_offsets end before they begin");
  CHECK(tensor("\"F32\"", "[4]", "[16, 32]").find("tensor t: data_offsets end at byte 32 of 16 bytes") == 0);
  CHECK(tensor("\"F32\"", "[2]", "[8, 16]") == "tensor t: data begins after a gap");
  CHECK(tensor("\"F32\"", "[2]", "[0, 8]") == "8 bytes of data belong to no tensor");
}

TEST_CASE("repeated, overlapping and malformed members of a header are refused") {
  const std::string data(16, 'x');
  const std::string whole = R"({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})";
  const std::string half = R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})";
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"a\": " + whole + "}", data) == "header: key a appears twice");
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"b\": " + whole + "}", data) ==
        "tensor b: data overlaps that of another tensor");
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"b\": " + half + "}", data) ==
        "tensor a: data overlaps that of another tensor");
  CHECK(HeaderRefusal("{\"a\": [1]}", data) == "tensor a: must be an object");
  CHECK(HeaderRefusal(R"({"a": {"dtype": "F32", "dtype": "F16"}})", data) ==
        "header: key dtype appears twice");
  CHECK(HeaderRefusal(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "x": 1}})", data) ==
        "tensor a: has an unknown member x");
  CHECK(HeaderRefusal("[]", data) == "header: must hold a JSON object");
  CHECK(HeaderRefusal("", data).find("header: is not valid JSON") == 0);
  CHECK(HeaderRefusal(whole + "   ", data).find("tensor ") == 0);
  const std::string sound = "{\"a\": " + whole + "}";
  CHECK(HeaderRefusal(sound + " \n", data) == "accepted");
  CHECK(HeaderRefusal(sound + std::string(3, '\0'), data).find("header: is not valid JSON: a NUL byte") == 0);
  CHECK(HeaderRefusal(sound + "{}", data).find("header: is not valid JSON") == 0);
  CHECK(HeaderRefusal("\xef\xbb\xbf" + sound, data) == "header: is not valid JSON");

  std::string huge = SafetensorsWithHeader("{}", "");
  huge[7] = '\x7f';
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(huge)), huge.size(), "x.safetensors");
  REQUIRE(!file.ok());
  CHECK(file.error().message.find("header of 9151314442816847874 bytes in a file of 10") == 0);
}

TEST_CASE("random damage to a safetensors file is refused or leaves every tensor inside the file") {
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  std::printf("safetensors damage: seed %u\n", seed);
  std::mt19937 random(seed);
  const std::string valid = Safetensors({{"a", {"F32", {2, 3}, std::string(24, 'a')}},
                                         {"b", {"BF16", {5}, std::string(10, 'b')}},
                                         {"c", {"I64", {}, std::string(8, 'c')}}});
  const size_t header_end = valid.size() - 42;
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = valid;
    for (uint32_t edit = 0; edit <= random() % 3; ++edit) {
      const size_t at = random() % 10 == 0 ? random() % 8 : 8 + random() % (header_end - 8);
      bytes[at] = static_cast<char>(random() % 3 == 0 ? random() % 256 : '0' + random() % 10);
    }
    if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 1));
    // A buffer of its own size, so that AddressSanitizer sees a read past its end.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(exact)), exact.size(), "x");
    if (!file.ok()) {
      CHECK(file.error().message.find('\n') == std::string::npos);
      continue;
    }
    ++accepted;
    for (const auto& [name, entry] : file->tensors()) {
      CHECK(entry.offset <= exact.size());
      CHECK(entry.bytes <= exact.size() - entry.offset);
    }
  }
  CHECK(accepted > 0);
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
