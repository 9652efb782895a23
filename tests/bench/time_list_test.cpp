#include "tests/bench/time_list.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/bench/program.h"
#include "tests/support/catch.h"

// The list of shapes and times: what others read of it, and what is read back.
namespace espalier::bench {

namespace {

using test::Outcome;
using test::Run;
using test::RunJson;

constexpr const char* kAttention =
    "attention --heads 4/2 --head-dim 16 --threads 1 --repeats 2 --layers 1 --peak-buffer-bytes 4194304 "
    "--tree '1,3;40,5' --modes flatten,sequence ";

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text = "")
      : path_(std::filesystem::temp_directory_path() /
              ("espalier_time_list_" + std::to_string(getpid()) + "_" + std::to_string(made_++))) {
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_.string(); }
  Json Read() const {
    std::ifstream file(path_);
    return Json::parse(file);
  }

 private:
  inline static int made_ = 0;
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("the list of shapes holds trees as plain arrays, and this run's times") {
  const TemporaryFile out;
  const Json report =
      RunJson(std::string(kAttention) + "--token-tree 6 --prompt-tokens 9 --shapes-out '" + out.path() + "'");
  const Json list = out.Read();
  REQUIRE(list.size() == 2);
  const Json& tree = list.at(0);
  CHECK(tree.at("workload") == "1,3;40,5");
  CHECK(tree.at("dtype") == "bfloat16");
  CHECK(tree.at("query_heads") == 4);
  CHECK(tree.at("kv_heads") == 2);
  CHECK(tree.at("head_dim") == 16);
  CHECK(tree.at("query_rows") == 3);
  CHECK(tree.at("kv_tokens") == 40 + 3 * 5);
  const Json& step = tree.at("steps").at(0);
  CHECK(step.at("node_parent") == Json({-1, 0, 0, 0}));
  CHECK(step.at("node_tokens") == Json({40, 5, 5, 5}));
  CHECK(step.at("node_rows") == Json({0, 1, 1, 1}));
  CHECK(step.at("row_node") == Json({1, 2, 3}));
  CHECK(step.at("row_parent") == Json({-1, -1, -1}));
  CHECK(step.at("row_kv_tokens") == Json({45, 45, 45}));
  CHECK(step.at("row_path") == Json({{0, 1}, {0, 2}, {0, 3}}));
  CHECK(tree.at("times_us").size() == 2);
  CHECK(tree.at("times_us").at("espalier flatten, cpu") ==
        report.at("rows").at(0).at("time_us").at("median"));

  // The last token of the path, four candidates below it, one more below the first of those.
  const Json& tokens = list.at(1).at("steps").at(0);
  CHECK(tokens.at("node_tokens") == Json({9 + 6}));
  CHECK(tokens.at("node_rows") == Json({6}));
  CHECK(tokens.at("row_parent") == Json({-1, 0, 1, 0, 0, 0}));
  CHECK(tokens.at("row_kv_tokens") == Json({10, 11, 12, 11, 11, 11}));
}

TEST_CASE("times of other kernels are compared with ours") {
  const TemporaryFile peers(R"([
    {"workload": "1,3;40,5", "times_us": {"other/kernel": 250.0}},
    {"workload": "1,3;40,5", "query_heads": 32, "times_us": {"other heads": 1}},
    {"workload": "few-shot 2", "kv_tokens": 1, "times_us": {"other tree": 1}},
    {"workload": "2;9", "times_us": {"third": 3}}, {"workload": "unheard of"}])");
  const std::string arguments =
      std::string(kAttention) + "--tree '2;9' --few-shot 2 --peer-times '" + peers.path() + "'";
  const Json report = RunJson(arguments);
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    const bool first = row.at("workload") == "1,3;40,5";
    CHECK(row.at("peer_us").size() == 2);
    CHECK(row.at("peer_us").at("other/kernel") == (first ? Json(250.0) : Json(nullptr)));
    CHECK(row.at("peer_us").at("third") == (row.at("workload") == "2;9" ? Json(3.0) : Json(nullptr)));
    if (!first) continue;
    CHECK(row.at("speedup_over_peers").at("other/kernel").get<double>() ==
          Approx(250.0 / row.at("time_us").at("median").get<double>()));
  }
  const Outcome table = Run(arguments);
  CHECK(table.exit_code == 0);
  CHECK(table.out.find("x other/kernel") != std::string::npos);
}

TEST_CASE("a list that was written can be read back as another machine's times") {
  const TemporaryFile list;
  RunJson(std::string(kAttention) + "--shapes-out '" + list.path() + "'");
  const Json report = RunJson(std::string(kAttention) + "--peer-times '" + list.path() + "'");
  CHECK(report.at("rows").at(0).at("peer_us").at("espalier sequence, cpu") > 0.0);
  CHECK(report.at("rows").at(0).at("speedup_over_peers").at("espalier sequence, cpu") > 0.0);
}

TEST_CASE("a damaged list of times is refused with the flag, the file and the entry") {
  const auto [text, why] = GENERATE(table<const char*, const char*>({
      {"{", "is not JSON"},
      {"{}", "is not an array"},
      {"[1]", "entry 0 is not an object"},
      {R"([{"workload": "a"}, {"times_us": {}}])", "entry 1 has no workload"},
      {R"([{"workload": "a", "times_us": [1]}])", "entry 0 times_us is not an object"},
      {R"([{"workload": "a", "times_us": {"b": 0}}])", "entry 0 times_us: 'b' is not a positive number"},
      {R"([{"workload": "a", "times_us": {"b": "1"}}])", "entry 0 times_us: 'b' is not a positive number"},
      {R"([{"workload": "a", "head_dim": "x"}])", "entry 0 head_dim is not an integer"},
      {R"([{"workload": "a", "dtype": 16}])", "entry 0 dtype is not a text"},
      {R"([{"workload": "other", "times_us": {"b": 1}}])", "no time is about these workloads"},
  }));
  const TemporaryFile file(text);
  const Outcome outcome = Run(std::string(kAttention) + "--peer-times '" + file.path() + "'");
  CAPTURE(text, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find(std::string("--peer-times: ")) != std::string::npos);
  CHECK(outcome.err.find(why) != std::string::npos);
}

TEST_CASE("lists that cannot be read or written are reported") {
  for (const std::string& flag : {std::string("--peer-times"), std::string("--shapes-out")}) {
    const Outcome outcome = Run(std::string(kAttention) + flag + " /no/such/folder/x.json");
    CAPTURE(outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.err.find("error: " + flag + ": '/no/such/folder/x.json'") != std::string::npos);
  }
}

}  // namespace espalier::bench
