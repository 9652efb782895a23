#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "server/config.h"
#include "server/located_json.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

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

TEST_CASE("sizes are numbers of bytes or have a unit") {
  const auto bytes_of = [](const std::string& text) {
    const ServerCommand command = Parse({"--model", ".", "--kv-cache-bytes", text.c_str()});
    return command.problems.empty() ? std::to_string(command.config.kv_cache_bytes)
                                    : command.problems.front();
  };
  CHECK(bytes_of("4096") == "4096");
  CHECK(bytes_of("4096B") == "4096");
  CHECK(bytes_of("8GiB") == "8589934592");
  CHECK(bytes_of("8 gib") == "8589934592");
  CHECK(bytes_of("500MB") == "500000000");
  CHECK(bytes_of("1TiB") == "1099511627776");
  const std::string wanted =
      "--kv-cache-bytes: must be a number of bytes, such as 1073741824, 8GiB or 500MB, got '";
  for (const std::string wrong : {"", "GiB", "8G", "1.5GiB", "8GiBs", "8 G iB", "0x10"}) {
    CHECK(bytes_of(wrong) == wanted + wrong + "'");
  }
  for (const std::string large : {"-1", "2048TiB", "9223372036854775807GiB", "99999999999999999999"}) {
    CHECK(bytes_of(large) == "--kv-cache-bytes: must be in [0, 1125899906842624], got " + large);
  }
}

TEST_CASE("a file may give a size with its unit") {
  const ConfigFile file("{\"model\": \".\", \"kv_cache_bytes\": \"64MiB\"}");
  const std::string path = file.path();
  const ServerCommand command = Parse({"--config", path.c_str()});
  CHECK(command.problems.empty());
  CHECK(command.config.kv_cache_bytes == 64 << 20);
}

TEST_CASE("flags of other servers for the address are explained") {
  const ServerCommand command = Parse({"--model", ".", "--host", "0.0.0.0"});
  CHECK(command.problems ==
        std::vector<std::string>{"--host: unknown flag; the address is --listen HOST:PORT"});
}

TEST_CASE("completion is printed without a model, for the shells that are known") {
  const auto command = Parse({"--completion", "bash"});
  CHECK(command.problems.empty());
  CHECK(command.completion.find("--max-batch-rows") != std::string::npos);
  const std::string fish = Parse({"--completion", "fish"}).completion;
  CHECK(fish.find("-l listen -x -d 'HOST:PORT to listen at,") != std::string::npos);
  CHECK(fish.find("-l backend -x -a 'auto cpu cuda ref' -d 'What runs the model'") != std::string::npos);
  CHECK(Parse({"--model", "/tmp"}).completion.empty());
  CHECK(Mentions(Parse({"--completion", "tcsh"}).problems, "--completion"));
}

TEST_CASE("flags set every kind of setting") {
  const auto command =
      Parse({"--model", "/tmp", "--threads", "3", "--dtype", "float32", "--attention-mode", "sequence",
             "--kv-cache-bytes", "123456789012", "--block-tokens", "32", "--weights", "int8"});
  REQUIRE(command.problems.empty());
  CHECK(command.config.model == "/tmp");
  CHECK(command.config.threads == 3);
  CHECK(command.config.dtype == DType::kFloat32);
  CHECK(command.config.weights == WeightType::kInt8);
  CHECK(command.config.attention_mode == AttentionMode::kSequence);
  CHECK(command.config.kv_cache_bytes == 123456789012);
  CHECK(command.config.block_tokens == 32);
}

TEST_CASE("a file may hold comments, and flags win over it") {
  const ConfigFile file("{\n  // the model\n  \"model\": \"/tmp\", \"threads\": 7\n}");
  const auto command = Parse({"--config", file.path().c_str(), "--threads", "2"});
  REQUIRE(command.problems.empty());
  CHECK(command.config.model == "/tmp");
  CHECK(command.config.threads == 2);
}

TEST_CASE("all mistakes of a file and of the flags are listed, in their order, with their places") {
  const ConfigFile file(
      "{\n"
      "  \"model\": 3,\n"
      "  \"thread\": 1, \"max_branches\": 3,\n"
      "  \"isa\": \"mmx\",\n"
      "  \"check_invariants\": \"yes\",  // not true\n"
      "  \"temperature\": 1,\n"
      "  \"drain_timeout_ms\": 1.5, \"kv_cache_bytes\": 99999999999999999999,\n"
      "  \"max_branches\": 0,\n"
      "  \"listen\": null, \"log_level\": [\"info\"]\n"
      "}");
  const auto command = Parse({"--config", file.path().c_str(), "--port-file", "/no/such/folder/port",
                              "--max-batch-rows", "many", "--thread", "3", "serve"});
  const std::string path = file.path();
  const std::vector<std::string> expected = {
      path + ":2:12: model: must be a string, got 3",
      path + ":3:3: thread: unknown setting; did you mean threads?",
      path + ":4:10: isa: must be one of auto, amx, avx512, avx2, portable, got 'mmx'",
      path + ":5:23: check_invariants: must be true or false, got \"yes\"",
      path + ":6:3: temperature: unknown setting",
      path + ":7:23: drain_timeout_ms: must be an integer, got 1.5",
      path + ":7:46: kv_cache_bytes: must be an integer or a string such as \"8GiB\", got 1e+20",
      path + ":8:3: max_branches: given twice",
      path + ":8:19: max_branches: must be in [1, 65536], got 0",
      path + ":9:13: listen: must be a string, got null",
      path + ":9:32: log_level: must be a string, got an array",
      "--max-batch-rows: must be an integer, got 'many'",
      "--thread: unknown flag; did you mean --threads?",
      "'serve': not understood, every setting is a flag (see --help)",
      "--port-file: there is no folder /no/such/folder",
  };
  CHECK(command.problems == expected);
}

TEST_CASE("what is wrong only together is reported where it was given") {
  auto problems_of = [](const std::string& content, std::vector<const char*> more = {}) {
    const ConfigFile file(content);
    const std::string path = file.path();
    std::vector<const char*> arguments = {"--model", "/tmp", "--config", path.c_str()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<std::string> problems = Parse(arguments).problems;
    for (std::string& problem : problems) {
      if (problem.starts_with(path)) problem.replace(0, path.size(), "FILE");
    }
    return problems;
  };
  using Problems = std::vector<std::string>;
  CHECK(problems_of(R"({"prefill_chunk_tokens": 600})") ==
        Problems{"FILE:1:26: prefill_chunk_tokens: must be at most max_batch_rows (512), got 600"});
  CHECK(problems_of(R"({"max_batch_rows": 100})") ==
        Problems{"FILE:1:20: max_batch_rows: must be at least prefill_chunk_tokens (256), got 100"});
  CHECK(problems_of(R"({"max_batch_rows": 1000})", {"--prefill-chunk-tokens", "1001"}) ==
        Problems{"--prefill-chunk-tokens: must be at most max_batch_rows (1000), got 1001"});
  CHECK(problems_of(R"({"prefill_chunk_tokens": 600})", {"--max-batch-rows", "600"}).empty());
  CHECK(problems_of(R"({"isa": "avx2", "backend": "ref"})") ==
        Problems{"FILE:1:9: isa: only the cpu backend has a choice, and backend is ref"});
  CHECK(problems_of(R"({"isa": "avx2", "backend": "cpu"})").empty());
  CHECK(problems_of(R"({"backend": "cuda", "weights": "int8"})") ==
        Problems{"FILE:1:32: weights: the cuda backend has no int8 weights yet; the cpu backend has"});
  CHECK(problems_of(R"({"weights": "int4"})") ==
        Problems{"FILE:1:13: weights: must be one of dtype, int8, got 'int4'"});
  CHECK(problems_of(R"({"listen": "nowhere"})") ==
        Problems{
            "FILE:1:12: listen: must be HOST:PORT with a port in [0, 65535], or unix:PATH, got 'nowhere'"});
  CHECK(problems_of(R"({"listen": "nowhere"})", {"--listen", "[::1]:65536"}) ==
        Problems{"--listen: must be HOST:PORT with a port in [0, 65535], or unix:PATH, got '[::1]:65536'"});
}

TEST_CASE("AdminService has an address of its own, or none") {
  CHECK_FALSE(Parse({"--model", "/tmp"}).config.admin_listen_given);
  CHECK(AdminListens(Parse({"--model", "/tmp"}).config));
  const auto problems_of = [](std::vector<const char*> flags) {
    flags.insert(flags.begin(), {"--model", "/tmp"});
    return Parse(flags).problems;
  };
  using Problems = std::vector<std::string>;
  CHECK(Parse({"--model", "/tmp", "--admin-listen", "127.0.0.1:0"}).config.admin_listen_given);
  for (const char* off : {"off", ""}) {
    const auto command = Parse({"--model", "/tmp", "--admin-listen", off});
    CHECK(command.problems.empty());
    CHECK_FALSE(AdminListens(command.config));
  }
  CHECK(problems_of({"--admin-listen", "unix:/tmp/admin"}).empty());
  CHECK(problems_of({"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}).empty());
  CHECK(
      problems_of({"--admin-listen", "none"}) ==
      Problems{"--admin-listen: must be HOST:PORT with a port in [0, 65535], unix:PATH, or off, got 'none'"});
  CHECK(problems_of({"--admin-listen", "127.0.0.1:50051"}) ==
        Problems{"--admin-listen: must be another address than that of listen, 127.0.0.1:50051"});
  CHECK(problems_of({"--admin-listen", "off", "--admin-port-file", "/tmp/x"}) ==
        Problems{"--admin-port-file: there is no port to write, admin_listen is off"});
  CHECK(problems_of({"--admin-port-file", "/no/such/folder/x"}) ==
        Problems{"--admin-port-file: there is no folder /no/such/folder"});
}

TEST_CASE("a model is required, and its folder must be there") {
  CHECK(Parse({}).problems == std::vector<std::string>{"--model: required: the folder of a model"});
  CHECK(Parse({"--model", "/no/such/folder"}).problems ==
        std::vector<std::string>{"--model: /no/such/folder does not exist"});
  CHECK(Mentions(
      Parse({"--model", "some-org/Model-1B"}).problems,
      "--model: some-org/Model-1B does not exist; if it is a model on the Hugging Face hub, download it "
      "first: hf download some-org/Model-1B"));
}

TEST_CASE("a missing or broken file is reported, and so are mistakes before the fault") {
  CHECK(Mentions(Parse({"--config", "/does/not/exist.json", "--model", "/tmp"}).problems,
                 "--config: /does/not/exist.json: there is no such file"));
  CHECK(Mentions(Parse({"--config", "/tmp", "--model", "/tmp"}).problems, "--config: /tmp: cannot be read"));
  CHECK(Mentions(Parse({"--config", "", "--model", "/tmp"}).problems, "--config: "));
  const ConfigFile broken("{\"threads\": -1,\n \"model\": \"/tmp\",\n}\n");
  CHECK(Parse({"--config", broken.path().c_str()}).problems ==
        std::vector<std::string>{
            broken.path() + ":1:13: threads: must be in [0, 1024], got -1",
            broken.path() + ":3:1: not valid JSON: unexpected '}'; expected string literal\n    }\n    ^"});
}

TEST_CASE("unknown flags are refused, help is text") {
  CHECK(Parse({"--model", "/tmp", "--modle=m", "--log-levle", "info", "-x"}).problems ==
        std::vector<std::string>{"--modle: unknown flag; did you mean --model?",
                                 "--log-levle: unknown flag; did you mean --log-level?", "-x: unknown flag"});
  CHECK(Parse({"--model", "/tmp", "here"}).problems ==
        std::vector<std::string>{"'here': not understood, every setting is a flag (see --help)"});
  const auto help = Parse({"--help"});
  CHECK(help.show_help);
  CHECK(help.help.find("--prefill-chunk-tokens") != std::string::npos);
}

TEST_CASE("what a file has set is known by its place, what a flag has set is not") {
  const ConfigFile file("{\"threads\": 2,\n\"isa\": \"avx2\"}");
  const auto command = Parse({"--model", "/tmp", "--config", file.path().c_str(), "--isa", "auto"});
  REQUIRE(command.problems.empty());
  CHECK(command.places == std::map<std::string, std::string>{{"--threads", file.path() + ":1:13: threads"}});
}

std::string Content(const std::filesystem::path& path) {
  std::ostringstream content;
  content << std::ifstream(path).rdbuf();
  return content.str();
}

TEST_CASE("configs/server.json names every setting with its default and a comment above") {
  const std::string text = Content(test::SourceDir() / "configs/server.json");
  const LocatedJson file(text);
  ServerConfig defaults;
  defaults.model = "model/demo";  // the only one without a default
  CHECK(file.value() == LocatedJson::Json::parse(ToJson(defaults)));

  std::vector<std::string> lines = {""};  // so that line 1 is lines[1]
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  for (const auto& [key, value] : file.value().items()) {
    INFO(key);
    CHECK(lines[static_cast<size_t>(file.KeyPlaceOf(key).line) - 1].starts_with("  // "));
  }
}

TEST_CASE("the configuration of the container image is sound and reachable from outside") {
  const std::string file = (test::SourceDir() / "configs/container.json").string();
  const auto command = Parse({"--config", file.c_str(), "--model", "/tmp"});
  CHECK(command.problems.empty());
  CHECK(command.config.listen == "0.0.0.0:50051");
  CHECK(command.config.drain_timeout_ms + 2000 < 10000);  // docker stop kills after 10 s
}

TEST_CASE("what is printed can be read back") {
  ServerConfig config;
  config.model = "/tmp";
  config.attention_mode = AttentionMode::kSequence;
  config.block_tokens = 32;
  config.kv_cache_bytes = 77;
  const ConfigFile file(ToJson(config));
  const auto command = Parse({"--config", file.path().c_str()});
  REQUIRE(command.problems.empty());
  CHECK(ToJson(command.config) == ToJson(config));
}

// What the program prints, standard output and error together, and its exit code.
std::pair<std::string, int> RunServer(const std::string& arguments) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "espalier-server";
  FILE* pipe = ::popen((program.string() + " " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  std::array<char, 4096> buffer;
  for (size_t read = 0; (read = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    output.append(buffer.data(), read);
  }
  const int status = ::pclose(pipe);
  return {output, WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

TEST_CASE("--check-config prints the configuration in effect and exits 0") {
  const std::string demo = (test::SourceDir() / "model/demo").string();
  const ConfigFile file("{\"threads\": 1, \"kv_cache_bytes\": 1048576, \"model\": \"" + demo + "\"}");
  const auto [output, code] = RunServer("--check-config --max-branches 7 --config " + file.path());
  CHECK(code == 0);
  INFO(output);
  const LocatedJson settings(output);
  REQUIRE(settings.faults().empty());
  CHECK(settings.value()["threads"] == 1);
  CHECK(settings.value()["max_branches"] == 7);
  CHECK(settings.value()["max_batch_rows"] == 512);
}

TEST_CASE("--check-config lists every mistake and exits 2") {
  const ConfigFile file("{\"threads\": 1,\n\"model\": \"/no/such\", \"max_branches\": 0}");
  const auto [output, code] = RunServer("--check-config --isa mmx --config " + file.path());
  CHECK(code == 2);
  CHECK(output == "error: " + file.path() +
                      ":2:38: max_branches: must be in [1, 65536], got 0\n"
                      "error: --isa: must be one of auto, amx, avx512, avx2, portable, got 'mmx'\n"
                      "error: " +
                      file.path() + ":2:10: model: /no/such does not exist\n");
}

TEST_CASE("a mistake that only the model shows is reported with its place in the file") {
  const std::string demo = (test::SourceDir() / "model/demo").string();
  const ConfigFile file("{\n  \"kv_cache_bytes\": 1000, \"threads\": 1\n}");
  const auto [output, code] = RunServer("--check-config --model " + demo + " --config " + file.path());
  CHECK(code == 2);
  CHECK(output.starts_with("error: " + file.path() + ":2:21: kv_cache_bytes: "));
  const auto [by_flag, flag_code] =
      RunServer("--check-config --threads 1 --kv-cache-bytes 1000 --model " + demo);
  CHECK(flag_code == 2);
  CHECK(by_flag.starts_with("error: --kv-cache-bytes: "));
}

}  // namespace
}  // namespace espalier
