#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

TEST_CASE("many clients at once get what each would get alone") {
  TestServer server;
  std::vector<v1::GenerateRequest> requests;
  std::vector<Generated> alone;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(FewShot("client number " + std::to_string(i % 4), 1 + i % 5, 6));
    requests.back().set_seed(static_cast<uint64_t>(i));
    alone.push_back(Generate(server.trees(), requests.back()));
  }
  std::vector<Generated> together(requests.size());
  {
    std::vector<std::jthread> clients;
    for (size_t i = 0; i < requests.size(); ++i) {
      clients.emplace_back([&, i] {
        const auto stub = v1::TreeService::NewStub(server.NewChannel());
        together[i] = Generate(*stub, requests[i]);
      });
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    REQUIRE(together[i].status.ok());
    REQUIRE(together[i].finished().branches_size() == alone[i].finished().branches_size());
    for (int b = 0; b < alone[i].finished().branches_size(); ++b) {
      CHECK(together[i].finished().branches(b).text() == alone[i].finished().branches(b).text());
    }
  }
  server.WaitUntilIdle();
}

TEST_CASE("a client that cancels or whose deadline passes leaks nothing") {
  TestServer server;
  std::mt19937 random(3);
  std::vector<grpc::StatusCode> codes(12);  // Catch2's assertions are for one thread
  std::vector<std::jthread> clients;
  for (int i = 0; i < 12; ++i) {
    const int reads = static_cast<int>(random() % 6);
    const bool by_deadline = random() % 3 == 0;
    clients.emplace_back([&server, &codes, i, reads, by_deadline] {
      const auto stub = v1::TreeService::NewStub(server.NewChannel());
      grpc::ClientContext context;
      if (by_deadline)
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(5 + i));
      const auto reader = stub->Generate(&context, FewShot("cancel " + std::to_string(i % 3), 8, 100));
      v1::GenerateResponse response;
      for (int k = 0; k < reads && reader->Read(&response); ++k) {
      }
      if (!by_deadline) context.TryCancel();
      while (reader->Read(&response)) {
      }
      codes[static_cast<size_t>(i)] = reader->Finish().error_code();
    });
  }
  clients.clear();
  for (const grpc::StatusCode code : codes) {
    CHECK((code == grpc::StatusCode::CANCELLED || code == grpc::StatusCode::DEADLINE_EXCEEDED ||
           code == grpc::StatusCode::OK));
  }
  server.WaitUntilIdle();
  CHECK(server.Stats().cancelled() > 0);
  CHECK(Generate(server.trees(), FewShot("still there", 1, 2)).status.ok());
}

TEST_CASE("a reader that stalls does not slow another, and gets every token in the end") {
  TestServer server;
  const auto request = FewShot("slow reader", 16, 60);
  grpc::ClientContext context;
  const auto slow = server.trees().Generate(&context, request);
  v1::GenerateResponse response;
  REQUIRE(slow->Read(&response));
  const auto stub = v1::TreeService::NewStub(server.NewChannel());
  for (int i = 0; i < 3; ++i) CHECK(Generate(*stub, FewShot("fast", 2, 10)).status.ok());
  server.WaitUntilIdle();
  int64_t tokens = 0;
  while (slow->Read(&response)) {
    for (const auto& branch : response.delta().branches()) tokens += branch.token_ids_size();
  }
  CHECK(slow->Finish().ok());
  CHECK(tokens == 16 * 60);
}

TEST_CASE("a full queue refuses with RESOURCE_EXHAUSTED before any work") {
  TestServer server({.blocks = 40, .max_queued_requests = 2});
  std::atomic<int> refused = 0;
  std::atomic<int> served = 0;
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 16; ++i) {
      clients.emplace_back([&] {
        const auto stub = v1::TreeService::NewStub(server.NewChannel());
        const Generated result = Generate(*stub, FewShot("queue", 8, 40));
        if (result.status.ok()) ++served;
        const bool exhausted = result.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
        if (exhausted && result.events.empty()) ++refused;
      });
    }
  }
  CHECK(served + refused == 16);
  CHECK(served >= 2);
  server.WaitUntilIdle();
}

TEST_CASE("draining lets running trees finish and refuses new ones") {
  TestServer server({.drain_timeout_ms = 30000});
  Generated running;
  std::atomic<bool> started = false;
  std::jthread client([&] {
    const auto stub = v1::TreeService::NewStub(server.NewChannel());
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, FewShot("drain", 4, 60));
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      running.events.push_back(response);
      started = true;
    }
    running.status = reader->Finish();
    started = true;
  });
  while (!started) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server.server().Drain();
  client.join();
  REQUIRE(running.status.ok());
  CHECK(running.finished().branches_size() == 4);
  const Generated late = Generate(server.trees(), FewShot("late", 1, 1));
  CHECK(late.status.error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("what does not finish while draining ends with UNAVAILABLE") {
  TestServer server({.drain_timeout_ms = 1});
  grpc::ClientContext context;
  const auto reader = server.trees().Generate(&context, FewShot("never done", 32, 400));
  v1::GenerateResponse response;
  REQUIRE(reader->Read(&response));
  server.server().Drain();
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  CHECK(status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(status.error_message() == "the server is stopping");
}

TEST_CASE("health answers for the server and for each service") {
  TestServer server;
  const auto check = [&](const std::string& service) {
    const std::string field =
        service.empty() ? "" : "\x0a" + std::string(1, static_cast<char>(service.size()));
    return SendRaw(server.channel(), "/grpc.health.v1.Health/Check", field + service);
  };
  CHECK(check("").ok());
  CHECK(check("espalier.v1.TreeService").ok());
  CHECK(check("no.such.Service").error_code() == grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace espalier::test
