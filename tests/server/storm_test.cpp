// Clients that behave badly, many at once, against a server in this process. After each storm nothing is
// live, every block is accounted for, and the server answers as before. ESPALIER_STORM_CLIENTS and
// ESPALIER_STORM_ROUNDS make it larger; verdicts depend on counts, never on time.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

int FromEnvironment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

std::string LongPrompt(int family) {
  std::string prompt = "family " + std::to_string(family);
  for (int i = 0; i < 10; ++i) prompt += " the quick brown fox " + std::to_string((i * 7 + family) % 10);
  return prompt;
}

// Branches that end at different times, a selection that waits for all of them, and more below it.
v1::GenerateRequest WithBarrier(int family) {
  v1::GenerateRequest request = FewShot(LongPrompt(family), 6, 60);
  for (int token = 3; token < 240; token += 3)
    request.mutable_nodes(1)->mutable_generate()->add_stop_token_ids(token);
  v1::TreeNode& best = *request.add_nodes();
  best.set_id("best");
  best.set_parent_id("answer");
  best.mutable_select()->set_keep(2);
  best.mutable_select()->set_score(v1::SELECT_SCORE_MEAN_LOGPROB);
  v1::TreeNode& more = *request.add_nodes();
  more.set_id("more");
  more.set_parent_id("best");
  more.mutable_generate()->set_branches(2);
  more.mutable_generate()->set_max_new_tokens(10);
  more.mutable_generate()->set_ignore_eos(true);
  return request;
}

// When a client leaves.
enum class Leaves { kAtOnce, kSoon, kStarted, kDecoding, kAtBarrier, kNearEnd, kByDeadline, kNever };
constexpr int kWaysToLeave = 8;

struct Client {
  Leaves leaves = Leaves::kNever;
  v1::GenerateRequest request;
  int patience = 0;  // deltas to read, or milliseconds to wait, before it leaves
  grpc::Status status = {};
  v1::Finished finished = {};

  bool LeavesAfter(const v1::GenerateResponse& response, int deltas) const {
    switch (leaves) {
      case Leaves::kStarted:
        return response.has_started();
      case Leaves::kDecoding:
        return deltas >= patience;
      case Leaves::kNearEnd:
        return deltas >= 59;
      case Leaves::kAtBarrier:
        return std::any_of(
            response.delta().branches().begin(), response.delta().branches().end(),
            [](const auto& branch) { return branch.finish_reason() != v1::FINISH_REASON_UNSPECIFIED; });
      default:
        return false;
    }
  }

  void Run(const std::shared_ptr<grpc::Channel>& channel) {
    const auto stub = v1::TreeService::NewStub(channel);
    grpc::ClientContext context;
    const auto now = std::chrono::system_clock::now();
    if (leaves == Leaves::kByDeadline) context.set_deadline(now + std::chrono::milliseconds(patience));
    const auto reader = stub->Generate(&context, request);
    if (leaves == Leaves::kSoon) std::this_thread::sleep_for(std::chrono::milliseconds(patience));
    if (leaves == Leaves::kAtOnce || leaves == Leaves::kSoon) context.TryCancel();
    v1::GenerateResponse response;
    for (int deltas = 0; reader->Read(&response);) {
      deltas += response.has_delta() ? 1 : 0;
      if (response.has_finished()) finished = response.finished();
      if (LeavesAfter(response, deltas)) context.TryCancel();
    }
    status = reader->Finish();
  }
};

std::vector<Client> MakeClients(int count, std::mt19937& random) {
  std::vector<Client> clients(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Client& client = clients[static_cast<size_t>(i)];
    client.leaves = static_cast<Leaves>(i % kWaysToLeave);
    client.patience = static_cast<int>(random() % 30);
    if (client.leaves == Leaves::kByDeadline) client.patience += 5;
    const int family = static_cast<int>(random() % 5);
    const bool barrier = client.leaves == Leaves::kAtBarrier || random() % 4 == 0;
    client.request = barrier ? WithBarrier(family) : FewShot(LongPrompt(family), 1 + i % 8, 60);
    client.request.set_seed(static_cast<uint64_t>(i % 16));
    client.request.set_cache_bypass(random() % 8 == 0);
  }
  std::shuffle(clients.begin(), clients.end(), random);
  return clients;
}

void CheckEnd(const Client& client) {
  INFO("way " << static_cast<int>(client.leaves) << ": " << client.status.error_message());
  const grpc::StatusCode code = client.status.error_code();
  const bool finished_before = code == grpc::StatusCode::OK;  // its leaving came too late
  switch (client.leaves) {
    case Leaves::kNever:
      CHECK(code == grpc::StatusCode::OK);
      break;
    case Leaves::kAtOnce:
    case Leaves::kStarted:
      CHECK((code == grpc::StatusCode::CANCELLED || finished_before));
      break;
    case Leaves::kByDeadline:
      CHECK((code == grpc::StatusCode::DEADLINE_EXCEEDED || finished_before));
      break;
    default:
      CHECK((code == grpc::StatusCode::CANCELLED || finished_before));
      break;
  }
}

TEST_CASE("a storm of clients that leave at random moments, in a pool that is too small for them") {
  const int count = FromEnvironment("ESPALIER_STORM_CLIENTS", 200);
  const int rounds = FromEnvironment("ESPALIER_STORM_ROUNDS", 1);
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto pace = std::make_shared<Pace>();
  TestServer server({.blocks = 96, .max_queued_requests = 4 * count, .pace = pace});
  const auto request = FewShot(LongPrompt(1), 4, 20);
  const auto before = TokensOf(Generate(server.trees(), request).finished());
  std::map<std::string, std::vector<std::vector<int32_t>>> alone;  // by encoded request, of those that stay
  for (int round = 0; round < rounds; ++round) {
    std::vector<Client> clients = MakeClients(count, random);
    for (Client& client : clients) {
      const std::string key = client.request.SerializeAsString();
      if (client.leaves == Leaves::kNever && alone.count(key) == 0)
        alone[key] = TokensOf(Generate(server.trees(), client.request).finished());
    }
    const v1::GetStatsResponse stats = server.Stats();
    {
      // The first step ends when all have come, so that they do meet.
      pace->Hold();
      std::vector<std::jthread> threads;
      for (Client& client : clients) {
        threads.emplace_back([&server, &client] { client.Run(server.NewChannel()); });
      }
      pace->WaitUntilHeld();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      pace->Release();
    }
    server.WaitUntilIdle();
    for (const Client& client : clients) {
      CheckEnd(client);
      if (client.leaves == Leaves::kNever && client.status.ok())
        CHECK(TokensOf(client.finished) == alone.at(client.request.SerializeAsString()));
    }
    CHECK(server.Stats().preemptions() > stats.preemptions());
    CHECK(server.Stats().cancelled() > stats.cancelled());
    CHECK(TokensOf(Generate(server.trees(), request).finished()) == before);
    server.WaitUntilIdle();
  }
}

TEST_CASE("a reader that stalls: others take the same steps, the engine does not wait, deltas are merged") {
  TestServer server({.blocks = 1024, .max_batch_rows = 64});
  auto quick = FewShot("quick", 4, 30);
  const Generated alone = Generate(server.trees(), quick);
  REQUIRE(alone.status.ok());

  auto large = FewShot("slow reader", 32, 400);
  large.mutable_nodes(1)->mutable_generate()->set_top_logprobs(20);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  const auto narrow = server.NewChannel(arguments);
  const auto stub = v1::TreeService::NewStub(narrow);
  grpc::ClientContext context;
  const auto stalled = stub->Generate(&context, large);
  v1::GenerateResponse response;
  REQUIRE(stalled->Read(&response));
  REQUIRE(response.has_started());
  quick.set_cache_bypass(true);  // the whole prompt again
  const Generated side_by_side = Generate(server.trees(), quick);
  REQUIRE(side_by_side.status.ok());
  CHECK(side_by_side.finished().usage().steps() == alone.finished().usage().steps());
  CHECK(TokensOf(side_by_side.finished()) == TokensOf(alone.finished()));
  server.WaitUntilIdle();  // the stalled one has run to its end, unread

  int messages = 0;
  int64_t tokens = 0;
  while (stalled->Read(&response)) {
    ++messages;
    for (const auto& branch : response.delta().branches()) tokens += branch.token_ids_size();
  }
  CHECK(stalled->Finish().ok());
  CHECK(tokens == 32 * 400);
  CHECK(messages < 100);  // of more than 400 steps
}

TEST_CASE("deadlines pass while a request runs and while it waits for room") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.blocks = 32, .pace = pace});
  pace->SetStepUs(20'000);
  grpc::ClientContext context;
  const auto blocker = server.trees().Generate(&context, FewShot("blocks the pool", 16, 400));
  v1::GenerateResponse response;
  for (int i = 0; i < 4; ++i) REQUIRE(blocker->Read(&response));
  Client waiting{.leaves = Leaves::kByDeadline, .request = FewShot(LongPrompt(2), 1, 200), .patience = 800};
  waiting.Run(server.NewChannel());
  CHECK(waiting.status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  server.WaitUntil([](const auto& stats) { return stats.cancelled() == 1 && stats.requests_queued() == 0; });
  Client running{.leaves = Leaves::kByDeadline, .request = FewShot("x", 1, 400), .patience = 800};
  running.Run(server.NewChannel());
  CHECK(running.status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
  context.TryCancel();
  while (blocker->Read(&response)) {
  }
  CHECK(blocker->Finish().error_code() == grpc::StatusCode::CANCELLED);
  server.WaitUntilIdle();
  CHECK(server.Stats().finished() == 0);
  CHECK(server.Stats().cancelled() == 3);
}

TEST_CASE("a full queue: exactly those that do not fit are refused, with a time to try again") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.max_queued_requests = 2, .pace = pace});
  pace->Hold();
  std::jthread first([&] { Generate(server.trees(), FewShot("runs", 2, 20)); });
  pace->WaitUntilHeld();
  std::atomic<int> served = 0;
  std::atomic<int> refused = 0;
  std::atomic<int> refused_with_time = 0;
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 6; ++i) {
      clients.emplace_back([&] {
        const auto stub = v1::TreeService::NewStub(server.NewChannel());
        grpc::ClientContext context;
        const auto reader = stub->Generate(&context, FewShot("waits", 2, 20));
        v1::GenerateResponse response;
        while (reader->Read(&response)) {
        }
        const grpc::Status status = reader->Finish();
        served += status.ok() ? 1 : 0;
        refused += status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ? 1 : 0;
        const auto& trailing = context.GetServerTrailingMetadata();
        const auto hint = trailing.find("grpc-retry-pushback-ms");
        if (hint == trailing.end()) return;
        const int ms = std::atoi(std::string(hint->second.data(), hint->second.size()).c_str());
        refused_with_time += ms >= 10 && ms <= 30'000 &&
                             status.error_message().find("try again in about") != std::string::npos;
      });
    }
    while (refused < 4) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pace->Release();
  }
  CHECK(served == 2);
  CHECK(refused == 4);
  CHECK(refused_with_time == 4);
  first.join();
  server.WaitUntilIdle();
}

TEST_CASE("a lost device: requests end with an error, health says NOT_SERVING, new ones are refused") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace});
  CHECK(IsServing(server.channel()));
  pace->Hold();
  Generated running;
  std::jthread client([&] { running = Generate(server.trees(), FewShot("cut short", 2, 100)); });
  pace->WaitUntilHeld();
  pace->Fail();
  pace->Release();
  client.join();
  CHECK(running.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK_FALSE(IsServing(server.channel()));
  CHECK_FALSE(IsServing(server.admin_channel()));
  const Generated late = Generate(server.trees(), FewShot("late", 1, 1));
  CHECK(late.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(late.status.error_message() == "the device has failed: restart the server");
  server.server().Drain();
}

TEST_CASE("a draining server says NOT_SERVING at once, and a stalled reader does not keep it") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.blocks = 1024, .drain_timeout_ms = 60'000, .pace = pace});
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto narrow = server.NewChannel(arguments);
  auto large = FewShot("never read", 16, 400);
  large.mutable_nodes(1)->mutable_generate()->set_top_logprobs(20);
  const auto stub = v1::TreeService::NewStub(narrow);
  grpc::ClientContext context;
  const auto stalled = stub->Generate(&context, large);
  v1::GenerateResponse response;
  REQUIRE(stalled->Read(&response));
  pace->Hold();
  pace->WaitUntilHeld();
  std::jthread draining([&] { server.server().Drain(); });
  while (IsServing(server.channel())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const Generated late = Generate(server.trees(), FewShot("late", 1, 1));
  CHECK(late.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(late.status.error_message() == "the server is stopping");
  pace->Release();
  draining.join();  // the tree has finished; its reader never came back
  CHECK(server.server().engine().Stats().finished == 1);
  CHECK(server.server().engine().Stats().blocks_live == 0);
}

}  // namespace
}  // namespace espalier::test
