// Clients and servers that are processes: clients killed at each stage of a request, servers stopped by
// signals under load.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/server/child_process.h"
#include "tests/server/server_process.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

bool Holds(const std::string& line, const std::string& word) { return line.find(word) != std::string::npos; }

// A stage of a request, by what the client has printed.
struct Stage {
  const char* name;
  std::function<bool(const std::string& line)> reached;
};

std::vector<Stage> Stages() {
  return {
      {"started, its prompt being read", [](const std::string& line) { return Holds(line, "\"started\""); }},
      {"decoding", [](const std::string& line) { return Holds(line, "\"delta\""); }},
      {"waiting at a barrier", [](const std::string& line) { return Holds(line, "\"stop_token\""); }},
      {"behind the barrier", [](const std::string& line) { return Holds(line, "\"selected\""); }},
      {"nearly at its end", [](const std::string& line) { return Holds(line, "\"last\""); }},
  };
}

// Some branches end early and wait for the others; then two levels more. Written as a user would.
std::string TreeFile() {
  std::string prompt;
  for (int i = 0; i < 20; ++i) prompt += "the quick brown fox ";
  std::string stops;
  for (int token = 3; token < 240; token += 2) stops += (stops.empty() ? "" : ", ") + std::to_string(token);
  const std::string path =
      (std::filesystem::temp_directory_path() / ("espalier_storm_" + std::to_string(getpid()) + ".json"))
          .string();
  std::ofstream(path) << R"({"seed": 1, "nodes": [
    {"id": "prompt", "given": {"text": ")"
                      << prompt << R"("}},
    {"id": "short", "parentId": "prompt", "generate": {"branches": 6, "maxNewTokens": 60, "stopTokenIds": [)"
                      << stops << R"(]}},
    {"id": "best", "parentId": "short", "select": {"keep": 2, "score": "SELECT_SCORE_MEAN_LOGPROB"}},
    {"id": "long", "parentId": "best", "generate": {"maxNewTokens": 20, "ignoreEos": true}},
    {"id": "last", "parentId": "long", "generate": {"branches": 2, "maxNewTokens": 20, "ignoreEos": true}}
  ]})";
  return path;
}

TEST_CASE("a client process killed at any stage of its request leaves nothing behind") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace});
  const auto request = FewShot("before and after", 3, 20);
  const auto before = TokensOf(Generate(server.trees(), request).finished());
  const std::string tree = TreeFile();
  const std::string address = "127.0.0.1:" + std::to_string(server.server().port());
  int64_t killed = 0;
  for (const Stage& stage : Stages()) {
    INFO("killed when " << stage.name);
    pace->SetStepUs(3000);
    ChildProcess client({ESPALIER_CLIENT_PROGRAM, "generate", "--tree", tree, "--server", address, "--json"});
    REQUIRE(client.WaitForLine(stage.reached));
    pace->SetStepUs(500'000);  // time to notice before the tree ends by itself
    client.Send(SIGKILL);
    CHECK(client.WaitForEnd(60) == -SIGKILL);
    ++killed;
    server.WaitUntil([&](const auto& stats) { return stats.cancelled() == killed; });
    pace->SetStepUs(0);
    server.WaitUntilIdle();
    CHECK(TokensOf(Generate(server.trees(), request).finished()) == before);
  }
  std::filesystem::remove(tree);
}

TEST_CASE("a client process killed while its request is queued leaves nothing behind") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.blocks = 32, .pace = pace});
  const std::string address = "127.0.0.1:" + std::to_string(server.server().port());
  grpc::ClientContext context;
  const auto blocker = server.trees().Generate(&context, FewShot("blocks the pool", 16, 400));
  v1::GenerateResponse response;
  pace->SetStepUs(2000);
  for (int i = 0; i < 20; ++i) REQUIRE(blocker->Read(&response));  // most of the pool is taken
  const std::string tree = TreeFile();
  pace->SetStepUs(20'000);
  {
    ChildProcess client({ESPALIER_CLIENT_PROGRAM, "generate", "--tree", tree, "--server", address, "--json"});
    server.WaitUntil([](const auto& stats) { return stats.requests_queued() == 1; });
    client.Send(SIGKILL);
    server.WaitUntil([](const auto& stats) { return stats.cancelled() == 1; });
  }
  CHECK(server.Stats().requests_queued() == 0);
  CHECK(server.Stats().requests_active() == 1);
  context.TryCancel();
  server.WaitUntilIdle();
  std::filesystem::remove(tree);
}

// Clients that send one request after another until one is refused.
struct Load {
  std::atomic<bool> warm = false;  // a tree has finished
  std::atomic<int> finished = 0;
  std::atomic<int> refused = 0;
  std::mutex mutex;
  std::vector<std::string> others;  // ends that should not be
  std::vector<std::jthread> clients;

  Load(const ServerProcess& server, int count, int branches, int max_new_tokens) {
    for (int i = 0; i < count; ++i) {
      clients.emplace_back([this, &server, i, branches, max_new_tokens] {
        const auto stub = v1::TreeService::NewStub(server.NewChannel());
        auto request = FewShot("list 5 8 18 37 gives", branches, max_new_tokens);
        request.set_seed(static_cast<uint64_t>(i));
        while (true) {
          const Generated result = Generate(*stub, request);
          const grpc::Status& status = result.status;
          if (status.ok()) {
            ++finished;
            warm = true;
            continue;
          }
          // gRPC itself cancels what arrives while it closes.
          const bool cut_by_grpc =
              status.error_code() == grpc::StatusCode::CANCELLED && status.error_message() == "CANCELLED";
          if (result.events.empty() &&
              (cut_by_grpc || status.error_code() == grpc::StatusCode::UNAVAILABLE)) {
            ++refused;
            return;
          }
          const std::lock_guard lock(mutex);
          others.push_back(std::to_string(status.error_code()) + " " + status.error_message());
          return;
        }
      });
    }
  }
};

TEST_CASE("SIGTERM under load: running trees finish, new ones are refused, exit code 0") {
  ServerProcess server({"--drain-timeout-ms", "60000"});
  Load load(server, 24, 2, 12);
  while (!load.warm) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server.process().Send(SIGTERM);
  const auto exit_code = server.process().WaitForEnd(60);
  load.clients.clear();
  INFO(server.Log());
  REQUIRE(exit_code.has_value());
  CHECK(*exit_code == 0);
  CHECK(load.finished > 0);
  CHECK(load.refused == 24);
  for (const std::string& other : load.others) FAIL_CHECK(other);
  CHECK(server.Log().find(" 0 cancelled, 0 blocks still live") != std::string::npos);
}

TEST_CASE("SIGTERM under load that does not end in time: it is cut with UNAVAILABLE, exit code 0") {
  ServerProcess server({"--drain-timeout-ms", "1"});
  const auto stub = v1::TreeService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, FewShot("list 5 8 18 37 gives", 512, 900));
  v1::GenerateResponse response;
  for (int i = 0; i < 3; ++i) REQUIRE(reader->Read(&response));
  server.process().Send(SIGTERM);
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() == "the server is stopping");
  const auto exit_code = server.process().WaitForEnd(60);
  INFO(server.Log());
  REQUIRE(exit_code.has_value());
  CHECK(*exit_code == 0);
  CHECK(server.Log().find(" 1 cancelled, 0 blocks still live") != std::string::npos);
}

TEST_CASE("a second signal stops a draining server at once") {
  ServerProcess server({"--drain-timeout-ms", "600000"});
  const auto stub = v1::TreeService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, FewShot("list 5 8 18 37 gives", 512, 900));
  v1::GenerateResponse response;
  for (int i = 0; i < 3; ++i) REQUIRE(reader->Read(&response));
  server.process().Send(SIGTERM);
  const auto channel = server.NewChannel();
  while (IsServing(channel)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  server.process().Send(SIGINT);
  const auto exit_code = server.process().WaitForEnd(60);
  INFO(server.Log());
  REQUIRE(exit_code.has_value());
  CHECK(*exit_code == 1);
  CHECK(server.Log().find("a second signal: stopped at once") != std::string::npos);
}

}  // namespace
}  // namespace espalier::test
