// One client that asks for everything, or reads nothing, next to others.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

// The last event of a request, and the step of its first tokens.
class Sink final : public TreeEventSink {
 public:
  void OnEvent(TreeEvent event) override {
    const std::lock_guard lock(mutex_);
    if (const auto* delta = std::get_if<TreeDelta>(&event); delta != nullptr && first_step_ == 0)
      first_step_ = delta->step;
    const bool ends = std::holds_alternative<TreeFinished>(event) || std::holds_alternative<Error>(event);
    if (ends) last_ = std::move(event);
    changed_.notify_all();
  }
  TreeEvent Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return last_.has_value(); });
    return *last_;
  }
  uint64_t first_step() {
    const std::lock_guard lock(mutex_);
    return first_step_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<TreeEvent> last_;
  uint64_t first_step_ = 0;
};

TreeRequest SmallTree(const std::string& peer) {
  TreeRequest request;
  request.peer = peer;
  request.nodes.push_back({"prompt", -1, GivenSpec{.token_ids = {5, 6, 7}}});
  GenerateSpec generate;
  generate.max_new_tokens = 4;
  generate.ignore_eos = true;
  request.nodes.push_back({"answer", 0, generate});
  return request;
}

TEST_CASE("a full queue of one client takes in another's request, and refuses its own newest instead") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.max_queued_requests = 4, .pace = pace});
  pace->Hold();
  std::jthread first([&] { Generate(server.trees(), FewShot("runs", 2, 20)); });
  pace->WaitUntilHeld();
  const auto greedy = v1::TreeService::NewStub(server.NewChannel());
  std::atomic<int> served = 0;
  std::atomic<int> refused = 0;
  std::atomic<int> told_when = 0;
  {
    std::vector<std::jthread> calls;
    for (int i = 0; i < 7; ++i) {
      calls.emplace_back([&] {
        grpc::ClientContext context;
        const auto reader = greedy->Generate(&context, FewShot("waits", 2, 20));
        v1::GenerateResponse response;
        bool any = false;
        while (reader->Read(&response)) any = true;
        const grpc::Status status = reader->Finish();
        served += status.ok() ? 1 : 0;
        refused += status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && !any ? 1 : 0;
        told_when += static_cast<int>(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"));
      });
    }
    while (refused < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    // Two of another peer are taken; a third would have to take the place of one that has no more than it.
    std::vector<std::shared_ptr<Sink>> sinks;
    for (int i = 0; i < 3; ++i) {
      sinks.push_back(std::make_shared<Sink>());
      const auto id = server.server().engine().Submit(SmallTree("another"), sinks.back());
      CHECK(id.ok() == (i < 2));
    }
    pace->Release();
    for (int i = 0; i < 2; ++i)
      CHECK(std::holds_alternative<TreeFinished>(sinks[static_cast<size_t>(i)]->Wait()));
  }
  CHECK(served == 2);
  CHECK(refused == 5);
  CHECK(told_when == 5);
  first.join();
  server.WaitUntilIdle();
}

TEST_CASE("a small request has its first token within a few steps of a client that holds everything") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.blocks = 96, .max_queued_requests = 32, .pace = pace});
  const auto greedy = v1::TreeService::NewStub(server.NewChannel());
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> calls;
  for (int i = 0; i < 20; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    calls.push_back(greedy->Generate(contexts.back().get(), FewShot("x" + std::to_string(i), 60, 400)));
  }
  server.WaitUntil([](const v1::GetStatsResponse& stats) { return stats.blocks_free() < 8; });
  for (int i = 0; i < 3; ++i) {
    pace->Hold();
    pace->WaitUntilHeld();
    const auto before = static_cast<uint64_t>(server.server().engine().Stats().steps);
    const auto sink = std::make_shared<Sink>();
    REQUIRE(server.server().engine().Submit(SmallTree("small"), sink).ok());
    pace->Release();
    CHECK(std::holds_alternative<TreeFinished>(sink->Wait()));
    CHECK(sink->first_step() <= before + 10);
  }
  CHECK(server.Stats().finished() == 3);
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& call : calls) {
    v1::GenerateResponse response;
    while (call->Read(&response)) continue;
    CHECK(call->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  server.WaitUntilIdle();
}

TEST_CASE("a client that leaves too much unread loses its largest answer; others lose nothing") {
  TestServer server({.blocks = 2048, .max_batch_rows = 64, .max_unread_bytes = 3 << 20});
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  const auto narrow = server.NewChannel(arguments);
  const auto stub = v1::TreeService::NewStub(narrow);
  const auto open = [&](grpc::ClientContext* context, int branches) {
    auto request = FewShot("not read " + std::to_string(branches), branches, 300);
    request.mutable_nodes(1)->mutable_generate()->set_top_logprobs(20);
    auto call = stub->Generate(context, request);
    v1::GenerateResponse response;
    REQUIRE(call->Read(&response));
    return call;
  };
  grpc::ClientContext small_context;
  grpc::ClientContext large_context;
  const auto small = open(&small_context, 8);
  server.WaitUntilIdle();  // it has run to its end, unread
  const int64_t unread = server.Stats().unread_bytes();
  CHECK(unread > 8 * 300 * 200);
  CHECK(unread < 3 << 20);
  const auto large = open(&large_context, 32);
  server.WaitUntil([](const v1::GetStatsResponse& stats) { return stats.cancelled() == 1; });
  server.WaitUntilIdle();
  CHECK(Generate(server.trees(), FewShot("another client", 2, 10)).status.ok());
  v1::GenerateResponse response;
  int64_t tokens = 0;
  while (small->Read(&response)) {
    for (const auto& branch : response.delta().branches()) tokens += branch.token_ids_size();
  }
  CHECK(small->Finish().ok());
  CHECK(tokens == 8 * 300);
  while (large->Read(&response)) continue;
  const grpc::Status status = large->Finish();
  CHECK(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(status.error_message().find("max_unread_bytes") != std::string::npos);
  server.WaitUntil([](const v1::GetStatsResponse& stats) { return stats.unread_bytes() == 0; });
}

}  // namespace
}  // namespace espalier::test
