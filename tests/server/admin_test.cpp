// AdminService, which listens apart from the other services.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "server/admin_address.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

// What grpc.health.v1 answers for one service: 1 serving, 2 not serving; 0: it is not known there.
int HealthOf(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  const std::string request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  std::string answer;
  const grpc::Status status = SendRaw(channel, "/grpc.health.v1.Health/Check", request, &answer);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) return 0;
  REQUIRE(status.ok());
  REQUIRE(answer.size() == 2);
  return answer[1];
}

TEST_CASE("AdminService is served at its own address alone, and the other address names it") {
  TestServer server;
  const std::string& address = server.server().admin_address();
  CHECK(address.starts_with("127.0.0.1:"));
  CHECK(address != "127.0.0.1:" + std::to_string(server.server().port()));
  for (const char* method : {"GetStats", "GetTreeSnapshot", "FlushCache"}) {
    const std::string path = std::string("/espalier.v1.AdminService/") + method;
    CHECK(SendRaw(server.admin_channel(), path, "").ok());
    const grpc::Status refused = SendRaw(server.channel(), path, "");
    CHECK(refused.error_code() == grpc::StatusCode::UNIMPLEMENTED);
    CHECK(refused.error_message().find("at " + address) != std::string::npos);
  }
  CHECK(SendRaw(server.channel(), "/espalier.v1.TreeService/Nothing", "").error_code() ==
        grpc::StatusCode::UNIMPLEMENTED);
  CHECK(SendRaw(server.admin_channel(), "/espalier.v1.ModelService/GetModel", "").error_code() ==
        grpc::StatusCode::UNIMPLEMENTED);
  grpc::ClientContext context;
  v1::GetModelResponse card;
  REQUIRE(server.models().GetModel(&context, {}, &card).ok());
  CHECK(card.admin_address() == address);
}

TEST_CASE("health of AdminService is known at both addresses, that of the others at theirs") {
  TestServer server;
  CHECK(HealthOf(server.channel(), "espalier.v1.TreeService") == 1);
  CHECK(HealthOf(server.channel(), "espalier.v1.AdminService") == 1);
  CHECK(HealthOf(server.admin_channel(), "espalier.v1.AdminService") == 1);
  CHECK(HealthOf(server.admin_channel(), "espalier.v1.TreeService") == 0);
  CHECK(IsServing(server.admin_channel()));
}

TEST_CASE("a draining server shows its counters, and is healthy at neither address") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.drain_timeout_ms = 60'000, .pace = pace});
  pace->Hold();
  grpc::ClientContext context;
  const auto reader = server.trees().Generate(&context, FewShot("what takes its time", 2, 4));
  pace->WaitUntilHeld();
  std::thread drain([&] { server.server().Drain(); });
  while (IsServing(server.admin_channel())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_FALSE(IsServing(server.channel()));
  CHECK(HealthOf(server.channel(), "espalier.v1.AdminService") == 2);
  CHECK(HealthOf(server.admin_channel(), "espalier.v1.AdminService") == 2);
  CHECK(server.Stats().requests_active() == 1);
  pace->Release();
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  CHECK(reader->Finish().ok());
  drain.join();
}

TEST_CASE("snapshots carry tokens only where they are asked for") {
  TestServer server;
  auto request = FewShot("a secret of one tenant that takes several blocks of tokens to tell", 2, 2);
  request.set_cache_namespace("tenant");
  REQUIRE(Generate(server.trees(), request).status.ok());
  server.WaitUntilIdle();
  for (const bool asked : {false, true}) {
    grpc::ClientContext context;
    v1::GetTreeSnapshotRequest ask;
    ask.set_include_tokens(asked);
    v1::GetTreeSnapshotResponse snapshot;
    REQUIRE(server.admin().GetTreeSnapshot(&context, ask, &snapshot).ok());
    REQUIRE(snapshot.nodes_size() > 0);
    for (const v1::KvNode& node : snapshot.nodes()) CHECK((node.first_token_ids_size() > 0) == asked);
  }
}

// An address on loopback that is taken.
class TakenAddress {
 public:
  TakenAddress() : file_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(bind(file_, reinterpret_cast<const sockaddr*>(&address), size) == 0);
    REQUIRE(listen(file_, 1) == 0);
    REQUIRE(getsockname(file_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    text_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~TakenAddress() { close(file_); }
  const std::string& text() const { return text_; }

 private:
  int file_;
  std::string text_;
};

TEST_CASE("AdminService gives way at its default address, and can be off") {
  const TakenAddress taken;
  for (const std::string& address : {taken.text(), std::string("off"), std::string()}) {
    TestServer server({.admin_listen = address, .admin_listen_given = false});
    CHECK(server.server().admin_address().empty());
    CHECK(HealthOf(server.channel(), "espalier.v1.AdminService") == 0);
    CHECK(Generate(server.trees(), FewShot("it serves", 1, 2)).status.ok());
    const grpc::Status refused = SendRaw(server.channel(), "/espalier.v1.AdminService/GetStats", "");
    CHECK(refused.error_code() == grpc::StatusCode::UNIMPLEMENTED);
    CHECK(refused.error_message().find("is off") != std::string::npos);
  }
}

TEST_CASE("a client finds AdminService from where it is") {
  const auto found = [](const std::string& server, const std::string& named) {
    const auto address = AdminAddressFor(server, named);
    return address ? *address : "error: " + address.error().message;
  };
  CHECK(found("127.0.0.1:50051", "127.0.0.1:50052") == "127.0.0.1:50052");
  CHECK(found("localhost:50051", "[::1]:50052") == "[::1]:50052");
  CHECK(found("unix:/run/server", "127.0.0.1:50052") == "127.0.0.1:50052");
  CHECK(found("127.0.0.1:50051", "unix:/run/admin") == "unix:/run/admin");
  CHECK(found("trees.example:50051", "0.0.0.0:50052") == "trees.example:50052");
  CHECK(found("[2001:db8::1]:50051", "[::]:50052") == "[2001:db8::1]:50052");
  CHECK(found("unix:/run/server", "0.0.0.0:50052") == "127.0.0.1:50052");
  CHECK(found("trees.example:50051", "192.0.2.7:50052") == "192.0.2.7:50052");
  CHECK(found("trees.example:50051", "127.0.0.1:50052").find("of its own machine only") != std::string::npos);
  CHECK(found("trees.example:50051", "unix:/run/admin").find("of its own machine only") != std::string::npos);
  CHECK(found("127.0.0.1:50051", "").find("has no AdminService") != std::string::npos);
}

}  // namespace
}  // namespace espalier::test
