#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/bench/program.h"
#include "tests/bench/serve_check.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"

// Runs `espalier-bench serve` against a server in this process: a tiny random model, so its prompts are
// random tokens. No time means anything here; counts and checks do.

namespace espalier::bench::test {
namespace {

using espalier::test::TestServer;

std::string Serve(const TestServer& server, const std::string& arguments) {
  return "serve --server 127.0.0.1:" + std::to_string(const_cast<TestServer&>(server).server().port()) +
         " --prompt-tokens 40 --branches 3 --new-tokens 4 --channels 2 " + arguments;
}

void CheckRow(const nlohmann::json& row) {
  CAPTURE(row.dump());
  for (const char* field : {"first_token_us", "per_output_token_us", "total_us", "server_first_token_us"}) {
    CHECK(row.at(field).at("p50") > 0.0);
    CHECK(row.at(field).at("p90") >= row.at(field).at("p50"));
    CHECK(row.at(field).at("p99") >= row.at(field).at("p90"));
  }
  for (const char* field : {"duration_s", "requests_per_s", "output_tokens_per_s", "rows_per_step",
                            "step_share", "forward_share", "deliver_share", "client_cpu_s"})
    CHECK(row.at(field) > 0.0);
  CHECK(row.at("idle_share") >= 0.0);
  CHECK(row.at("forward_share") <= row.at("step_share"));
  CHECK(row.at("errors").is_object());
  CHECK(row.at("faults") == 0);
  CHECK(row.at("backend") == "ref");
}

TEST_CASE("serve runs every workload with every number of clients, and finds nothing missing") {
  TestServer server;
  const std::string here = " --server-pid " + std::to_string(getpid());
  const auto report = RunJson(
      Serve(server, "--workload few-shot,multi-step,mixed --clients 1,7 --requests 14 --seed 5" + here));
  CHECK(report.at("machine").at("isa").is_string());
  REQUIRE(report.at("rows").size() == 6);
  int i = 0;
  for (const auto& row : report.at("rows")) {
    CheckRow(row);
    CHECK(row.at("workload") == (i < 2 ? "few-shot" : i < 4 ? "multi-step" : "mixed"));
    CHECK(row.at("clients") == (i++ % 2 == 0 ? 1 : 7));
    CHECK(row.at("requests_sent") == 14);
    CHECK(row.at("requests_ok") == 14);
    CHECK(row.at("errors").empty());
    CHECK(row.at("loop") == "closed");
  }
  CHECK(report.at("rows").at(2).at("server_cpu_s") > 0.0);
  CHECK(report.at("rows").at(0).at("output_tokens") == 14 * 3 * 4);
  CHECK(report.at("rows").at(0).at("prompt_tokens") == 14 * 40);
  // 32 of 40 tokens are shared, in whole blocks; four prompts have to be computed.
  CHECK(report.at("rows").at(0).at("cached_tokens") >= (14 - 4) * 32);
  CHECK(report.at("rows").at(0).at("cached_tokens") <= 14 * 32);
  server.WaitUntilIdle();
}

TEST_CASE("the open loop sends all requests, whatever the server does, and counts from their arrival") {
  TestServer server;
  const auto report = RunJson(Serve(server, "--rate 2000 --requests 30"));
  const auto& row = report.at("rows").at(0);
  CheckRow(row);
  CHECK(row.at("loop") == "open");
  CHECK(row.at("rate") == 2000.0);
  CHECK(row.at("requests_ok") == 30);
  // One at a time: all but the first have waited, and their wait counts.
  const auto bounded = RunJson(Serve(server, "--rate 2000 --requests 30 --clients 1"));
  CHECK(bounded.at("rows").at(0).at("requests_ok") == 30);
  CHECK(bounded.at("rows").at(0).at("total_us").at("p99") >
        2 * bounded.at("rows").at(0).at("most_late_us").get<double>() / 3);
}

TEST_CASE("a full queue shows as refused requests, and as nothing else") {
  TestServer server({.blocks = 40, .max_queued_requests = 1});
  const auto report = RunJson(Serve(server, "--clients 24 --requests 120 --flush-cache"));
  const auto& row = report.at("rows").at(0);
  CHECK(row.at("refused") > 0);
  CHECK(row.at("errors").at("RESOURCE_EXHAUSTED") == row.at("refused"));
  CHECK(row.at("errors").size() == 1);
  CHECK(row.at("requests_ok").get<int>() + row.at("refused").get<int>() == 120);
  CHECK(row.at("faults") == 0);
  server.WaitUntilIdle();
}

TEST_CASE("requests that pass their deadline are reported, and the program fails") {
  TestServer server;
  const Outcome outcome = Run(Serve(server, "--new-tokens 400 --requests 2 --clients 2 --deadline 0.05"));
  CHECK(outcome.exit_code == 1);
  CHECK(outcome.err.find("DEADLINE_EXCEEDED") != std::string::npos);
  CHECK(outcome.out.find("few-shot") != std::string::npos);
  server.WaitUntilIdle();
}

TEST_CASE("serve prints a table by default, and its JSON can go to a file as well") {
  TestServer server;
  const auto path = std::filesystem::temp_directory_path() / "espalier_bench_serve.json";
  const Outcome outcome = Run(Serve(server, "--requests 3 --clients 2 --json-file '" + path.string() + "'"));
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.out.find("tokens/s") != std::string::npos);
  CHECK(outcome.out.find('{') == std::string::npos);
  std::ifstream file(path);
  CHECK(nlohmann::json::parse(file).at("rows").at(0).at("requests_ok") == 3);
  std::filesystem::remove(path);
}

TEST_CASE("a server that does not run ends with code 3") {
  const Outcome outcome = Run("serve --server 127.0.0.1:1 --requests 1");
  CHECK(outcome.exit_code == 3);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find("error: --server: no answer from 127.0.0.1:1") != std::string::npos);
}

TEST_CASE("a senseless value of serve ends with code 2 and names its flag") {
  TestServer server;
  const auto [arguments, flag] = GENERATE(table<const char*, const char*>({
      {"--clients 0", "--clients"},
      {"--clients 1,x", "--clients"},
      {"--clients 2,3 --rate 5", "--clients"},
      {"--rate 0", "--rate"},
      {"--rate 5,nan", "--rate"},
      {"--rate ''", "--rate"},
      {"--requests 0", "--requests"},
      {"--duration -1", "--duration"},
      {"--deadline 0", "--deadline"},
      {"--channels 0", "--channels"},
      {"--server-pid -1", "--server-pid"},
      {"--workload chat", "--workload"},
      {"--prompts poems", "--prompts"},
      {"--prompt-tokens 0", "--prompt-tokens"},
      {"--prompt-tokens 510", "--prompt-tokens"},
      {"--branches 0", "--branches"},
      {"--branches 65", "--branches"},
      {"--new-tokens 0", "--new-tokens"},
      {"--frobnicate", "--frobnicate"},
  }));
  const Outcome outcome = Run(Serve(server, arguments));
  CAPTURE(arguments, outcome.err);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find(flag) != std::string::npos);
}

// A tree of two branches, and the events of a sound answer.
v1::GenerateRequest SmallRequest() {
  v1::GenerateRequest request;
  v1::TreeNode& root = *request.add_nodes();
  root.set_id("root");
  root.mutable_given()->set_text("a");
  v1::TreeNode& answer = *request.add_nodes();
  answer.set_id("answer");
  answer.set_parent_id("root");
  answer.mutable_generate()->set_branches(2);
  return request;
}

std::vector<v1::GenerateResponse> SoundEvents() {
  std::vector<v1::GenerateResponse> events(3);
  events[0].mutable_started()->set_prompt_tokens(1);
  v1::Finished& finished = *events[2].mutable_finished();
  for (int number = 1; number <= 2; ++number) {
    v1::BranchDelta& delta = *events[1].mutable_delta()->add_branches();
    delta.set_branch(number);
    delta.set_node_id("answer");
    delta.add_token_ids(7);
    delta.add_logprobs(-1.0F);
    delta.set_text("x");
    delta.set_finish_reason(v1::FINISH_REASON_MAX_TOKENS);
    v1::Branch& branch = *finished.add_branches();
    branch.set_branch(number);
    branch.add_node_path("root");
    branch.add_node_path("answer");
    branch.add_token_ids(7);
    branch.set_text("x");
    branch.set_finish_reason(v1::FINISH_REASON_MAX_TOKENS);
  }
  finished.mutable_usage()->set_prompt_tokens(1);
  finished.mutable_usage()->set_generated_tokens(2);
  return events;
}

std::string FaultOf(const std::vector<v1::GenerateResponse>& events) {
  const v1::GenerateRequest request = SmallRequest();
  StreamCheck check(&request);
  for (const v1::GenerateResponse& event : events) check.Take(event);
  return check.Fault();
}

TEST_CASE("the check of a stream accepts a sound one") { CHECK(FaultOf(SoundEvents()).empty()); }

TEST_CASE("the check of a stream finds what is missing") {
  auto events = SoundEvents();
  v1::BranchDelta& delta = *events[1].mutable_delta()->mutable_branches(1);
  v1::Finished& finished = *events[2].mutable_finished();
  std::string expected;
  SECTION("the end") {
    events.pop_back();
    expected = "'finished'";
  }
  SECTION("the beginning") {
    events.erase(events.begin());
    expected = "'started'";
  }
  SECTION("a token of a delta") {
    delta.clear_token_ids();
    delta.clear_logprobs();
    expected = "tokens differ";
  }
  SECTION("a log-probability") {
    delta.clear_logprobs();
    expected = "log-probabilities";
  }
  SECTION("text of a delta") {
    delta.clear_text();
    expected = "text differs";
  }
  SECTION("a branch") {
    finished.mutable_branches()->RemoveLast();
    expected = "branches of node 'answer': 1 instead of 2";
  }
  SECTION("the end of a branch") {
    delta.set_finish_reason(v1::FINISH_REASON_UNSPECIFIED);
    expected = "end was not reported";
  }
  SECTION("a branch that was cancelled") {
    finished.mutable_branches(0)->set_finish_reason(v1::FINISH_REASON_CANCELLED);
    expected = "did not end well";
  }
  SECTION("tokens of the usage") {
    finished.mutable_usage()->set_generated_tokens(3);
    expected = "usage.generated_tokens: 3 instead of 2";
  }
  SECTION("prompt tokens of the usage") {
    finished.mutable_usage()->set_prompt_tokens(2);
    expected = "usage.prompt_tokens";
  }
  SECTION("an event behind the end") {
    events.push_back(events[1]);
    expected = "after the last";
  }
  CHECK(FaultOf(events).find(expected) != std::string::npos);
}

}  // namespace
}  // namespace espalier::bench::test
