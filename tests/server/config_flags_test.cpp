#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "server/config.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

ServerCommand Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "espalier-server");
  return ParseServerCommand(static_cast<int>(arguments.size()), arguments.data());
}

// A configuration file that is gone at the end of the test.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              ("espalier_config_" + std::to_string(::getpid()) + ".json")) {
    std::ofstream(path_) << content;
  }
  ~ConfigFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

bool Mentions(const std::vector<std::string>& problems, const std::string& text) {
  for (const std::string& problem : problems) {
    if (problem.find(text) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("flags set every kind of setting") {
  const auto command = Parse({"--model", "m", "--threads", "3", "--dtype", "float32", "--attention-mode",
                              "sequence", "--kv-cache-bytes", "123456789012", "--block-tokens", "32"});
  REQUIRE(command.problems.empty());
  CHECK(command.config.model == "m");
  CHECK(command.config.threads == 3);
  CHECK(command.config.dtype == DType::kFloat32);
  CHECK(command.config.attention_mode == AttentionMode::kSequence);
  CHECK(command.config.kv_cache_bytes == 123456789012);
  CHECK(command.config.block_tokens == 32);
}

TEST_CASE("a file may hold comments, and flags win over it") {
  const ConfigFile file("{\n  // the model\n  \"model\": \"from-file\", \"threads\": 7\n}");
  const auto command = Parse({"--config", file.path().c_str(), "--threads", "2"});
  REQUIRE(command.problems.empty());
  CHECK(command.config.model == "from-file");
  CHECK(command.config.threads == 2);
}

TEST_CASE("all mistakes of a file and of the flags are listed, by name") {
  const ConfigFile file(
      R"({"model": 3, "thread": 1, "max_branches": 0, "isa": "mmx", "check_invariants": "yes"})");
  const auto command =
      Parse({"--config", file.path().c_str(), "--listen", "nowhere", "--max-batch-rows", "many"});
  CHECK(Mentions(command.problems, "model: must be a string"));
  CHECK(Mentions(command.problems, "thread: unknown setting"));
  CHECK(Mentions(command.problems, "max_branches: must be in [1, 65536], got 0"));
  CHECK(Mentions(command.problems, "isa: must be one of"));
  CHECK(Mentions(command.problems, "check_invariants: must be true or false"));
  CHECK(Mentions(command.problems, "--listen: must be HOST:PORT"));
  CHECK(Mentions(command.problems, "--max-batch-rows: must be an integer"));
  CHECK(Mentions(command.problems, "--model: required"));
}

TEST_CASE("a missing or broken file is one clear line") {
  CHECK(Mentions(Parse({"--config", "/does/not/exist.json", "--model", "m"}).problems, "cannot be read"));
  const ConfigFile broken("{\"model\": ");
  CHECK(Mentions(Parse({"--config", broken.path().c_str()}).problems, "not valid JSON"));
  const ConfigFile array("[1]");
  CHECK(Mentions(Parse({"--config", array.path().c_str()}).problems, "must hold one JSON object"));
}

TEST_CASE("unknown flags are refused, help is text") {
  CHECK(Mentions(Parse({"--modle", "m"}).problems, "--modle"));
  const auto help = Parse({"--help"});
  CHECK(help.show_help);
  CHECK(help.help.find("--prefill-chunk-tokens") != std::string::npos);
}

TEST_CASE("what is printed can be read back") {
  ServerConfig config;
  config.model = "m";
  config.attention_mode = AttentionMode::kNodeChunk;
  config.block_tokens = 32;
  config.kv_cache_bytes = 77;
  const ConfigFile file(ToJson(config));
  const auto command = Parse({"--config", file.path().c_str()});
  REQUIRE(command.problems.empty());
  CHECK(ToJson(command.config) == ToJson(config));
}

}  // namespace
}  // namespace espalier
