#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/bench/program.h"
#include "tests/support/catch.h"

// Runs the program as a user does, on shapes so small that no time means anything; what is exact is checked
// exactly: fields, bytes, operations, ratios, exit codes.

namespace {

using Json = nlohmann::json;
using espalier::bench::test::Outcome;
using espalier::bench::test::Run;
using espalier::bench::test::RunJson;

constexpr const char* kTiny =
    "decode --layers 2 --hidden 32 --ffn 48 --heads 4/2 --head-dim 16 --vocab 64 --prompt-tokens 70 "
    "--new-tokens 4 --threads 1 --prefill-chunk-tokens 32 --repeats 2 --peak-buffer-bytes 4194304 ";

// K and V of a token, all layers, bf16: 2 layers, 2 KV heads of 16.
constexpr int64_t kTokenBytes = 2 * 2 * 2 * 16 * 2;
// Mean over the decode steps of the tokens that a branch sees: 70 + 1, 70 + 2, 70 + 3.
constexpr int64_t kPathTokens = 72;

const Json& RowOf(const Json& report, int branches, const std::string& mode) {
  for (const Json& row : report.at("rows")) {
    if (row.at("branches") == branches && row.at("mode") == mode) return row;
  }
  FAIL("no row for " << branches << " branches, " << mode);
  return report;
}

}  // namespace

TEST_CASE("decode prints one JSON object with every field, a row for each number of branches and mode") {
  const Json report = RunJson(std::string(kTiny) + "--branches 1,5 --modes all");
  for (const char* field : {"schema", "commit", "command"}) CHECK(report.at(field).is_string());
  CHECK(report.at("command").get<std::string>().find("--branches 1,5 --modes all --json") !=
        std::string::npos);
  for (const char* field : {"cpu", "isa", "device"})
    CHECK(!report.at("machine").at(field).get<std::string>().empty());
  CHECK(report.at("machine").at("threads") == 1);
  CHECK(report.at("machine").at("load_average") >= 0.0);
  for (const char* field : {"read_bytes_per_s", "bf16_flop_per_s"}) CHECK(report.at("peak").at(field) > 1e6);

  REQUIRE(report.at("rows").size() == 10);
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    CHECK(row.at("workload") == "decode");
    CHECK(row.at("backend") == "cpu");
    CHECK(row.at("dtype") == "bfloat16");
    CHECK(row.at("query_heads") == 4);
    CHECK(row.at("kv_heads") == 2);
    CHECK(row.at("head_dim") == 16);
    for (const char* field : {"kv_read_bytes", "kv_read_bytes_sequence", "partial_bytes", "mask_bytes",
                              "flop", "weight_bytes", "branches"})
      CHECK(row.at(field).is_number_integer());
    for (const char* field : {"prefill_tokens_per_s", "decode_tokens_per_s", "roofline_us", "roofline_ratio",
                              "forward_us", "achieved_bytes_per_s", "bandwidth_ratio"})
      CHECK(row.at(field) > 0.0);
    const double bytes = row.at("weight_bytes").get<double>() + row.at("kv_read_bytes").get<double>();
    const double peak = report.at("peak").at("read_bytes_per_s");
    CHECK(row.at("achieved_bytes_per_s").get<double>() ==
          Approx(bytes / row.at("forward_us").get<double>() * 1e6).epsilon(0.01));
    CHECK(row.at("bandwidth_ratio").get<double>() ==
          Approx(row.at("achieved_bytes_per_s").get<double>() / peak));
    CHECK(row.at("forward_us") >= row.at("attention_us"));
    for (const char* field : {"plan_us", "attention_us", "outside_forward_us"}) CHECK(row.at(field) >= 0.0);
    const double median = row.at("step_us").at("median");
    CHECK(median > 0.0);
    CHECK(row.at("step_us").at("p99") >= median);
    CHECK(row.at("roofline_ratio").get<double>() ==
          Approx(row.at("roofline_us").get<double>() / median).epsilon(0.05));
    CHECK(row.at("decode_steps") == 6);  // 3 in each of 2 repeats
  }
}

TEST_CASE("int8 weights are compared with those of the model's type") {
  const Json report = RunJson(std::string(kTiny) + "--branches 1,5 --modes flatten --weights dtype,int8");
  const int64_t matrices = 2 * (32 * (4 + 2 * 2) * 16 + 32 * 64 + 3 * 32 * 48) + 64 * 32;
  const int64_t norms = (2 * 2 + 1) * 32;
  const int64_t outputs = 2 * ((4 + 2 * 2) * 16 + 32 + 2 * 48 + 32) + 64;
  const Json& peak = report.at("peak");
  REQUIRE(peak.at("int8_op_per_s") > 1e6);
  REQUIRE(report.at("rows").size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    const Json& row = report.at("rows").at(i);
    CAPTURE(row.dump());
    CHECK(row.at("branches") == (i < 2 ? 1 : 5));
    if (i % 2 == 0) {
      CHECK(row.at("weights") == "bfloat16");
      CHECK(row.at("weight_bytes") == (matrices + norms) * 2);
      continue;
    }
    CHECK(row.at("weights") == "int8");
    CHECK(row.at("weight_bytes") == matrices + norms + 4 * outputs);
    const double attention = row.at("branches").get<double>() * kPathTokens * 4 * 4 * 16 * 2;
    const double bytes = row.at("weight_bytes").get<double>() + row.at("kv_read_bytes").get<double>();
    const double us =
        std::max(bytes / peak.at("read_bytes_per_s").get<double>(),
                 (row.at("flop").get<double>() - attention) / peak.at("int8_op_per_s").get<double>() +
                     attention / peak.at("bf16_flop_per_s").get<double>()) *
        1e6;
    CHECK(row.at("roofline_us").get<double>() == Approx(us).margin(0.0011));
  }
}

TEST_CASE("bytes and operations of a decode step are those of its plan and its matrices") {
  const Json report = RunJson(std::string(kTiny) + "--branches 1,5 --modes flatten,sequence,masked");
  // q, k, v and output, feed-forward network, head.
  const int64_t matrices = 2 * (32 * (4 + 2 * 2) * 16 + 32 * 64 + 3 * 32 * 48) + 64 * 32;
  const int64_t norms = (2 * 2 + 1) * 32;
  const double bandwidth = report.at("peak").at("read_bytes_per_s");
  const double rate = report.at("peak").at("bf16_flop_per_s");
  for (const int branches : {1, 5}) {
    const int64_t sequence_bytes = branches * kPathTokens * kTokenBytes;
    for (const char* mode : {"flatten", "sequence", "masked"}) {
      const Json& row = RowOf(report, branches, mode);
      CAPTURE(row.dump());
      CHECK(row.at("kv_read_bytes_sequence") == sequence_bytes);
      const int64_t attention = branches * kPathTokens * 4 * 4 * 16 * 2;
      CHECK(row.at("flop") == branches * 2 * matrices + attention);
      CHECK(row.at("weight_bytes") == (matrices + norms) * 2);
      const double bytes = row.at("weight_bytes").get<double>() + row.at("kv_read_bytes").get<double>();
      const double us = std::max(bytes / bandwidth, row.at("flop").get<double>() / rate) * 1e6;
      CHECK(row.at("roofline_us").get<double>() == Approx(us).margin(0.0011));
    }
    CHECK(RowOf(report, branches, "sequence").at("kv_read_bytes") == sequence_bytes);
  }
  CHECK(RowOf(report, 1, "flatten").at("kv_read_bytes") == kPathTokens * kTokenBytes);
  // The trunk of 4 whole blocks is read once, what follows it by each branch.
  CHECK(RowOf(report, 5, "flatten").at("kv_read_bytes") == (64 + 5 * (kPathTokens - 64)) * kTokenBytes);
  CHECK(RowOf(report, 5, "flatten").at("mask_bytes") == 0);
  CHECK(RowOf(report, 5, "masked").at("mask_bytes") > 0);
}

TEST_CASE("decode prints a table of all rows by default") {
  const Outcome outcome = Run(std::string(kTiny) + "--branches 3 --modes node,node_chunk --dtype float32");
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find("decode tok/s") != std::string::npos);
  CHECK(outcome.out.find("GB/s") != std::string::npos);
  CHECK(outcome.out.find("node_chunk") != std::string::npos);
  CHECK(outcome.out.find('{') == std::string::npos);
}

TEST_CASE("the rows can be had as CSV, every field by its path") {
  const Outcome outcome = Run(std::string(kTiny) + "--branches 2,3 --modes flatten --csv");
  CHECK(outcome.exit_code == 0);
  std::istringstream lines(outcome.out);
  std::vector<std::string> header;
  std::string line;
  REQUIRE(std::getline(lines, line));
  for (std::istringstream cells(line); std::getline(cells, line, ',');) header.push_back(line);
  for (const char* field : {"workload", "mode", "kv_read_bytes", "branches", "step_us/median"}) {
    CHECK(std::count(header.begin(), header.end(), field) == 1);
  }
  int rows = 0;
  for (; std::getline(lines, line); ++rows) {
    CHECK(std::count(line.begin(), line.end(), ',') + 1 == static_cast<int64_t>(header.size()));
  }
  CHECK(rows == 2);
}

TEST_CASE("the JSON of a run can go to a file, and the table to standard output") {
  const auto path =
      std::filesystem::temp_directory_path() / ("espalier_bench_json_" + std::to_string(getpid()));
  const Outcome outcome =
      Run(std::string(kTiny) + "--branches 2 --modes flatten --json-file '" + path.string() + "'");
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find("decode tok/s") != std::string::npos);
  std::ifstream file(path);
  CHECK(Json::parse(file).at("rows").size() == 1);
  std::filesystem::remove(path);
}

TEST_CASE("score counts what candidates take in one request, and compares with a request for each") {
  const Json report = RunJson(
      "score --layers 2 --hidden 32 --ffn 48 --heads 4/2 --head-dim 16 --vocab 4096 --threads 1 --repeats 1 "
      "--peak-buffer-bytes 4194304 --prompt-tokens 37 --candidates 9 --candidate-tokens 5 --seed 3 "
      "--modes flatten,sequence");
  REQUIRE(report.at("rows").size() == 2);
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    CHECK(row.at("distinct_tokens") == 37 + 9 * 4);
    CHECK(row.at("computed_tokens") == row.at("distinct_tokens"));
    for (const char* field : {"items_per_s", "speedup", "speedup_uncached"}) CHECK(row.at(field) > 0.0);
  }
}

TEST_CASE(
    "long-prompt compares steps next to a long prompt, shared by time and by rows, with those without it") {
  const Json report = RunJson(
      "long-prompt --layers 2 --hidden 32 --ffn 48 --heads 4/2 --head-dim 16 --vocab 4096 --threads 1 "
      "--branches 4 --long-tokens 600 --cached-tokens 100 --short-tokens 20 --steps 12 "
      "--prefill-chunk-tokens 32 --seed 3");
  REQUIRE(report.at("rows").size() == 2);
  CHECK(report.at("rows").at(0).at("shared_by") == "time");
  CHECK(report.at("rows").at(1).at("shared_by") == "rows");
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    CHECK(row.at("p99_ratio") > 0.0);
    CHECK(row.at("beside_us").at("p99") >= row.at("beside_us").at("median"));
    CHECK(row.at("prefill_tokens_per_s") > 0.0);
    CHECK(row.at("short_steps") >= 1);
    CHECK(row.at("short_steps") <= 10);
  }
}

TEST_CASE("the reference backend runs the same benchmark") {
  const Json report = RunJson(std::string(kTiny) + "--branches 2 --modes flatten --backend ref --repeats 1");
  CHECK(report.at("rows").at(0).at("backend") == "ref");
  CHECK(report.at("rows").at(0).at("dtype") == "float32");
}

TEST_CASE("more branches than rows of a prefill step still decode in one step") {
  const Json report = RunJson(std::string(kTiny) + "--branches 40 --modes flatten");
  CHECK(report.at("rows").at(0).at("decode_steps") == 6);
}

TEST_CASE("a senseless value ends with code 2 and names its flag") {
  const auto [arguments, flag] = GENERATE(table<const char*, const char*>({
      {"--layers 0", "--layers"},
      {"--hidden x", "--hidden"},
      {"--heads 32", "--heads"},
      {"--heads 6/4", "--heads"},
      {"--heads 4/0", "--heads"},
      {"--heads 4/2/1", "--heads"},
      {"--head-dim 7", "--head-dim"},
      {"--head-dim 514", "--head-dim"},
      {"--vocab 1", "--vocab"},
      {"--prompt-tokens 0", "--prompt-tokens"},
      {"--prompt-tokens 99999999999", "--prompt-tokens"},
      {"--branches 1,,2", "--branches"},
      {"--branches 0", "--branches"},
      {"--branches 5x", "--branches"},
      {"--new-tokens 1", "--new-tokens"},
      {"--modes flatten,tree", "--modes"},
      {"--modes ''", "--modes"},
      {"--dtype float16", "--dtype"},
      {"--weights int8,int4", "--weights"},
      {"--backend tpu", "--backend"},
      {"--isa mmx", "--isa"},
      {"--threads -1", "--threads"},
      {"--block-tokens 24", "--block-tokens"},
      {"--prefill-chunk-tokens 0", "--prefill-chunk-tokens"},
      {"--repeats 0", "--repeats"},
      {"--repeats 0x1", "--repeats: must be an integer"},
      {"--seed -1", "--seed: must be an integer in [0, 18446744073709551615], got '-1'"},
      {"--seed 18446744073709551616", "--seed: must be an integer"},
      {"--layers 1000 --hidden 65536 --ffn 262144", "--layers"},
      {"--new-tokens 1000000 --branches 16000", "--branches"},
      {"--json-file /no/such/folder/x.json", "--json-file"},
      {"--csv", "--csv"},  // together with --json
      {"--frobnicate", "--frobnicate"},
  }));
  const Outcome outcome = Run(std::string(kTiny) + "--json " + arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find(flag) != std::string::npos);
}

TEST_CASE("every mistake is reported at once") {
  const Outcome outcome = Run("decode --layers 0 --modes tree --heads 3");
  CHECK(outcome.exit_code == 2);
  for (const char* flag : {"error: --layers: ", "error: --modes: ", "error: --heads: "})
    CHECK(outcome.err.find(flag) != std::string::npos);
}

namespace {

constexpr const char* kTinyAttention =
    "attention --heads 4/2 --head-dim 16 --threads 1 --repeats 3 --layers 2 --peak-buffer-bytes 4194304 ";

}  // namespace

TEST_CASE("attention prints a row for each workload and mode, with exact bytes and small errors") {
  const Json report = RunJson(std::string(kTinyAttention) +
                              "--tree '1,3;40,5' --tree '2;9' --few-shot 2,4 --prompt-tokens 33 "
                              "--branch-tokens 7 --token-tree 9 --prefill 20 --modes all");
  REQUIRE(report.at("rows").size() == 6 * 5);
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    CHECK(row.at("max_error_over_ref") < 0.01);
    CHECK(row.at("time_us").at("runs") == 3);
    CHECK(row.at("time_us").at("min") <= row.at("time_us").at("median"));
    CHECK(row.at("time_us").at("median") <= row.at("time_us").at("max"));
    CHECK(row.at("speedup_over_sequence") > 0.0);
    CHECK(row.at("speedup_over_masked") > 0.0);
    CHECK(row.at("achieved_bytes_per_s") > 0.0);
    CHECK(row.at("bandwidth_ratio").get<double>() ==
          Approx(row.at("achieved_bytes_per_s").get<double>() /
                 report.at("peak").at("read_bytes_per_s").get<double>()));
    CHECK(row.at("mask_bytes").get<int64_t>() >= 0);
    const double memory_us = row.at("roofline_memory_us");
    const double gemm_us = row.at("roofline_products_us");
    CHECK(gemm_us ==
          Approx(row.at("flop").get<double>() / report.at("peak").at("bf16_flop_per_s").get<double>() * 1e6)
              .margin(0.0011));
    CHECK(row.at("roofline_us").get<double>() == Approx(std::max(memory_us, gemm_us)).margin(0.0011));
    CHECK(row.at("limit") == (memory_us >= gemm_us ? "memory" : "products"));
  }
  const Json& flatten = report.at("rows").at(0);
  CHECK(flatten.at("workload") == "1,3;40,5");
  CHECK(flatten.at("mode") == "flatten");
  CHECK(flatten.at("query_rows") == 3);
  // 32 of the root's tokens are whole blocks; each branch holds the other 8 and its own 5.
  CHECK(flatten.at("kv_tokens") == 32 + 3 * (8 + 5));
  constexpr int64_t kLayerTokenBytes = 2 * 2 * 16 * 2;
  CHECK(flatten.at("kv_read_bytes_sequence") == 3 * 45 * kLayerTokenBytes);
  CHECK(flatten.at("flop") == 3 * 45 * 4 * 4 * 16);
}

TEST_CASE("attention without the other modes has no speed-up over them") {
  const Json report =
      RunJson(std::string(kTinyAttention) + "--tree '1,2;20,5' --modes flatten --checked-rows 0");
  const Json& row = report.at("rows").at(0);
  for (const char* field : {"speedup_over_sequence", "speedup_over_masked", "max_error_over_ref"})
    CHECK(row.at(field).is_null());
}

TEST_CASE("attention names the flag at fault") {
  const auto [arguments, flag] = GENERATE(table<const char*, const char*>({
      {"", "--tree"},
      {"--tree 1,2", "--tree"},
      {"--tree '1,2;3,4' --heads 3/2", "--heads"},
      {"--tree '1,2;3,4' --head-dim 7", "--head-dim"},
      {"--trees /no/such/file", "--trees"},
      {"--token-tree 0", "--token-tree"},
      {"--token-tree /no/such/file", "--token-tree"},
      {"--few-shot 0", "--few-shot"},
      {"--prefill 99999999", "--prefill"},
      {"--tree '1,20000;1,1'", "--tree"},
      {"--tree '1,2;3,4' --backend tpu", "--backend"},
      {"--tree '1,2;3,4' --layers -1", "--layers"},
  }));
  const Outcome outcome = Run(std::string(kTinyAttention) + "--json " + arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find(flag) != std::string::npos);
}

namespace {

constexpr const char* kTinyReplay =
    "replay --layers 2 --hidden 32 --ffn 48 --heads 4/2 --head-dim 16 --vocab 64 --threads 1 "
    "--prefill-chunk-tokens 32 --peak-buffer-bytes 4194304 ";

}  // namespace

TEST_CASE("replay decodes windows of trees, every mode the same steps") {
  const Json report = RunJson(std::string(kTinyReplay) +
                              "--few-shot 3 --prompt-tokens 40 --branch-tokens 30 --tree '1,2,6;20,9,11' "
                              "--windows 2 --window-steps 5 --modes all");
  REQUIRE(report.at("rows").size() == 2 * 5);
  for (const Json& row : report.at("rows")) {
    CAPTURE(row.dump());
    CHECK(row.at("decode_us") > 0.0);
    CHECK(row.at("forward_us") > 0.0);
    CHECK(row.at("forward_us") <= row.at("decode_us"));
    CHECK(row.at("achieved_bytes_per_s") > 0.0);
    CHECK(row.at("bandwidth_ratio") > 0.0);
    CHECK(row.at("attention_us") >= 0.0);
    CHECK(row.at("outside_forward_us") >= 0.0);
    CHECK(row.at("speedup_over_sequence") > 0.0);
    CHECK(row.at("skipped_trees") == 0);
  }
  // Each window's first tokens come with the end of its prefill.
  const Json& few_shot = report.at("rows").at(5);
  CHECK(few_shot.at("tree") == "few-shot 3");
  CHECK(few_shot.at("steps") == 2 * 4);
  CHECK(few_shot.at("tokens") == 2 * 4 * 3);
}

TEST_CASE("replay reports the type of the weights, of which int8 are fewer bytes") {
  std::vector<Json> rows;
  for (const std::string type : {"bfloat16", "int8"}) {
    const std::string command = std::string(kTinyReplay) +
                                "--few-shot 3 --prompt-tokens 40 --branch-tokens 30 --modes flatten " +
                                (type == "int8" ? "--weights int8" : "--weights dtype");
    CHECK(Run(command).out.find(" MB of " + type + " weights read a step") != std::string::npos);
    rows.push_back(RunJson(command).at("rows").at(0));
    CHECK(rows.back().at("weights") == type);
    CHECK(rows.back().at("dtype") == "bfloat16");
  }
  CAPTURE(rows[0].dump(), rows[1].dump());
  const double ratio = rows[1].at("weight_bytes").get<double>() / rows[0].at("weight_bytes").get<double>();
  CHECK(ratio > 0.5);
  CHECK(ratio < 0.65);  // half, and scales
  for (const char* same : {"steps", "tokens", "kv_read_bytes", "flop"})
    CHECK(rows[0].at(same) == rows[1].at(same));
}

TEST_CASE("replay names the flag at fault") {
  const auto [arguments, flag] = GENERATE(table<const char*, const char*>({
      {"", "--trees"},
      {"--trees /no/such/file", "--trees"},
      {"--tree '2,4;3,3'", "--tree"},
      {"--tree '1;3'", "--tree"},
      {"--few-shot 0", "--few-shot"},
      {"--few-shot 2 --windows 0", "--windows"},
      {"--few-shot 2 --window-steps 1", "--window-steps"},
      {"--few-shot 2 --repeats 0", "--repeats"},
      {"--few-shot 2 --head-dim 7", "--head-dim"},
      {"--few-shot 2 --weights int4", "--weights: must be one of dtype, int8, got 'int4'"},
      {"--few-shot 2 --weights dtype,int8", "--weights"},
      {"--few-shot 2 --backend cuda", "--peak-gb-per-s"},
      {"--few-shot 2 --layers 1000 --hidden 65536 --ffn 262144", "--layers"},
  }));
  const Outcome outcome = Run(std::string(kTinyReplay) + "--json " + arguments);
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find(flag) != std::string::npos);
}

TEST_CASE("no command is a mistake, help is not") {
  CHECK(Run("").exit_code == 2);
  CHECK(Run("frobnicate").exit_code == 2);
  const Outcome help = Run("decode --help");
  CHECK(help.exit_code == 0);
  CHECK(help.out.find("--prompt-tokens") != std::string::npos);
}
