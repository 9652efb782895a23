// Folders that must be refused: each with one line that names the file and what is wrong in it.
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>

#include "model/llama_runner.h"
#include "model/safetensors.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"

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
  CheckRefused(folder, "model.safetensors", "is not a file");
  std::filesystem::remove(folder.File("model.safetensors"));
  WriteFile(folder.File("model.safetensors"), "");
  CheckRefused(folder, "model.safetensors", "is too short for a safetensors file");
  std::filesystem::remove(folder.File("config.json"));
  std::filesystem::create_directory(folder.File("config.json"));
  CheckRefused(folder, "config.json", "is not a readable file");

  const auto missing = LoadModel(folder.path() + "/nowhere", RefOptions());
  REQUIRE(!missing.ok());
  CHECK(missing.error().ToString() == folder.path() + "/nowhere: is not a folder");
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
  refused([&](Tensors& t) { t["model.layers.2.input_layernorm.weight"] = t.at("model.norm.weight"); },
          "tensor model.layers.2.input_layernorm.weight: is no part of the model");
}

TEST_CASE("buffers of old rotary embeddings are ignored") {
  const TempFolder folder;
  Tensors tensors = TinyTensors();
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {16}, std::string(64, '\0')};
  WriteModel(folder, TinyConfig(), tensors);
  RequireLoads(folder);
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
                                                  {"intermediate_size", 32},  {"num_hidden_layers", 1},
                                                  {"num_hidden_layers", 3},   {"num_attention_heads", 2},
                                                  {"num_key_value_heads", 4}, {"head_dim", 64},
                                                  {"attention_bias", false},  {"mlp_bias", true},
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
  changed = index;
  auto& shard = changed["weight_map"][name];
  shard = shard == "model-0.safetensors" ? "model-1.safetensors" : "model-0.safetensors";
  refused(changed, shard.get<std::string>(), "tensor model.norm.weight is missing, though");
  changed = index;
  changed["weight_map"].erase(name);
  refused(changed, index_file, "tensor model.norm.weight is missing");
  WriteFile(folder.File(index_file), "{");
  CheckRefused(folder, index_file, "is not valid JSON");

  WriteFile(folder.File(index_file), index.dump());
  RequireLoads(folder);
  std::filesystem::resize_file(folder.File("model-1.safetensors"), 1000);
  CheckRefused(folder, "model-1.safetensors", "header of");
}

// --- The header of a safetensors file ---

std::string HeaderRefusal(const std::string& header, const std::string& data) {
  const std::string bytes = SafetensorsWithHeader(header, data);
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(bytes)), "x.safetensors");
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

  std::string huge = SafetensorsWithHeader("{}", "");
  huge[7] = '\x7f';
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(huge)), "x.safetensors");
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
    const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(exact)), "x");
    if (!file.ok()) {
      CHECK(file.error().message.find('\n') == std::string::npos);
      continue;
    }
    ++accepted;
    for (const auto& [name, entry] : file->tensors()) {
      const auto* begin = reinterpret_cast<const char*>(entry.data.data());
      CHECK((entry.data.empty() ||
             (begin >= exact.data() && begin + entry.data.size() <= exact.data() + exact.size())));
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
