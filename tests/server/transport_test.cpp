// Connections of a whole server: limits, silence, pings, peers that vanish, unix sockets, reflection.
#include <grpcpp/generic/generic_stub.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <grpc/reflection/v1/reflection.grpc.pb.h>
#include <grpc/reflection/v1alpha/reflection.grpc.pb.h>

#include "server/endpoint.h"
#include "server/listening_socket.h"
#include "server/peer.h"
#include "tests/server/raw_connection.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kPatience{60};

const std::string kSettings = Http2Frame(4, 0, 0);

TEST_CASE("a connection that says nothing, or not HTTP/2, or half of it, is closed") {
  TestServer server({.transport = {.handshake_timeout_ms = 300}});
  const int port = server.server().port();
  const RawConnection silent(port);
  const RawConnection half(port);
  const RawConnection no_settings(port);
  const RawConnection other(port);
  REQUIRE(half.Send(std::string(kHttp2Preface).substr(0, 10)));
  REQUIRE(no_settings.Send(kHttp2Preface));
  REQUIRE(other.Send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  CHECK(other.IsClosedWithin(kPatience));
  CHECK(silent.IsClosedWithin(kPatience));
  CHECK(half.IsClosedWithin(kPatience));
  CHECK(no_settings.IsClosedWithin(kPatience));
  CHECK(IsServing(server.channel()));
}

TEST_CASE("a preface that comes in pieces is understood") {
  TestServer server;
  const RawConnection slow(server.server().port());
  for (const char byte : std::string(kHttp2Preface) + kSettings) {
    REQUIRE(slow.Send(std::string(1, byte)));
    std::this_thread::sleep_for(milliseconds(2));
  }
  std::array<char, 9> answer{};  // the server's SETTINGS
  REQUIRE(recv(slow.file(), answer.data(), answer.size(), MSG_WAITALL) == 9);
  CHECK(answer[3] == 4);
}

TEST_CASE("with all places taken by idle connections a newcomer is served, and who has a call keeps it") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace, .transport = {.max_connections = 4}});
  pace->SetStepUs(20'000);
  grpc::ClientContext context;
  const auto stream = server.trees().Generate(&context, FewShot("keeps its connection", 1, 60));
  v1::GenerateResponse response;
  REQUIRE(stream->Read(&response));
  std::vector<RawConnection> flood;
  for (int i = 0; i < 20; ++i) flood.emplace_back(server.server().port());
  // Channels that have been used and are idle give way too.
  for (int i = 0; i < 8; ++i) CHECK(IsServing(server.NewChannel()));
  int closed = 0;
  for (const RawConnection& each : flood) closed += each.IsClosedWithin(seconds(1)) ? 1 : 0;
  CHECK(closed >= 17);
  int events = 0;
  while (stream->Read(&response)) ++events;
  CHECK(stream->Finish().ok());
  CHECK(events > 0);
}

TEST_CASE("with all places taken by calls a newcomer is refused until one ends") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace, .transport = {.max_connections = 2}});
  pace->SetStepUs(20'000);
  const auto first_channel = server.NewChannel();
  const auto second_channel = server.NewChannel();
  const auto first = v1::TreeService::NewStub(first_channel);
  const auto second = v1::TreeService::NewStub(second_channel);
  grpc::ClientContext first_context;
  grpc::ClientContext second_context;
  const auto first_stream = first->Generate(&first_context, FewShot("first", 1, 400));
  const auto second_stream = second->Generate(&second_context, FewShot("second", 1, 400));
  v1::GenerateResponse response;
  REQUIRE(first_stream->Read(&response));
  REQUIRE(second_stream->Read(&response));
  const RawConnection refused(server.server().port());
  CHECK(refused.IsClosedWithin(kPatience));
  first_context.TryCancel();
  while (first_stream->Read(&response)) {
  }
  CHECK_FALSE(first_stream->Finish().ok());
  grpc::ClientContext third_context;
  third_context.set_wait_for_ready(true);
  v1::GetModelResponse card;
  const auto third = v1::ModelService::NewStub(server.NewChannel());
  CHECK(third->GetModel(&third_context, {}, &card).ok());
  second_context.TryCancel();
}

TEST_CASE("a connection without calls is closed after its time") {
  TestServer server({.transport = {.idle_timeout_ms = 300}});
  const RawConnection idle(server.server().port());
  REQUIRE(idle.Send(kHttp2Preface + kSettings));
  CHECK(idle.IsClosedWithin(kPatience));
  CHECK(IsServing(server.channel()));  // a channel connects again by itself
}

TEST_CASE("a client that pings a quiet stream keeps it") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace});
  pace->SetStepUs(3'000'000);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 400);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  const auto stub = v1::TreeService::NewStub(server.NewChannel(arguments));
  const Generated result = Generate(*stub, FewShot("quiet", 1, 2));
  INFO(result.status.error_message());
  CHECK(result.status.ok());
}

// Stands between a client and the server, and can stop forwarding as a network does when its cable is pulled.
class Relay {
 public:
  explicit Relay(int server_port) : server_(server_port) {
    auto sockets = ListeningSocket::Open("relay", "127.0.0.1:0");
    REQUIRE(sockets.ok());
    sockets_ = std::move(*sockets);
    thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  }
  int port() const { return sockets_.front().port(); }
  void Freeze() { frozen_ = true; }

 private:
  void Run(const std::stop_token& stop) {
    int client = -1;
    while (client < 0 && !stop.stop_requested()) {
      pollfd ready{.fd = sockets_.front().file(), .events = POLLIN, .revents = 0};
      poll(&ready, 1, 10);
      client = accept4(sockets_.front().file(), nullptr, nullptr, SOCK_CLOEXEC);
    }
    if (client < 0) return;
    const std::array<int, 2> ends{client, server_.file()};
    std::array<char, 4096> bytes{};
    while (!stop.stop_requested()) {
      std::array<pollfd, 2> ready{pollfd{.fd = ends[0], .events = POLLIN, .revents = 0},
                                  pollfd{.fd = ends[1], .events = POLLIN, .revents = 0}};
      poll(ready.data(), ready.size(), 10);
      for (size_t i = 0; i < 2 && !frozen_; ++i) {
        if (ready[i].revents == 0) continue;
        const ssize_t got = recv(ends[i], bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got > 0) send(ends[1 - i], bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
      }
      if (frozen_) std::this_thread::sleep_for(milliseconds(5));
    }
    close(client);
  }

  const RawConnection server_;  // made here: Catch2's assertions are for one thread
  std::vector<ListeningSocket> sockets_;
  std::atomic<bool> frozen_ = false;
  std::jthread thread_;
};

TEST_CASE("a client that is dead without a word is noticed, and its request cancelled") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.pace = pace, .transport = {.keepalive_time_ms = 300, .keepalive_timeout_ms = 300}});
  Relay relay(server.server().port());
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(relay.port()), grpc::InsecureChannelCredentials());
  const auto stub = v1::TreeService::NewStub(channel);
  pace->SetStepUs(500);
  grpc::ClientContext context;
  const auto stream = stub->Generate(&context, FewShot("will be dead", 1, 400));
  v1::GenerateResponse response;
  REQUIRE(stream->Read(&response));
  pace->SetStepUs(200'000);  // its end is far away: 80 s
  relay.Freeze();
  server.WaitUntil([](const auto& stats) { return stats.cancelled() == 1; });
  pace->SetStepUs(0);
  server.WaitUntilIdle();
  context.TryCancel();
}

TEST_CASE("more calls than max_streams on one connection wait for each other") {
  TestServer server({.transport = {.max_streams = 3}});
  std::vector<grpc::Status> statuses(12);
  {
    std::vector<std::jthread> clients;
    for (grpc::Status& status : statuses) {
      clients.emplace_back([&] { status = Generate(server.trees(), FewShot("in turn", 2, 3)).status; });
    }
  }
  for (const grpc::Status& status : statuses) CHECK(status.ok());
}

// Remembers who called.
class PeerService final : public v1::ModelService::CallbackService {
 public:
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* /*request*/,
                                     v1::GetModelResponse* /*response*/) override {
    const std::lock_guard lock(mutex_);
    peers_.insert(PeerOfCall(context->peer()).share);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return peers_.size();
  }

 private:
  std::mutex mutex_;
  std::set<std::string> peers_;
};

TEST_CASE("connections of a unix socket are different peers, and so are those of loopback") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("espalier_peers_" + std::to_string(getpid()))).string();
  for (const std::string& address : {"unix:" + path, std::string("127.0.0.1:0")}) {
    INFO(address);
    PeerService service;
    auto endpoint = Endpoint::Start({.flag = "--listen", .address = address},
                                    {{v1::ModelService::service_full_name(), &service}});
    REQUIRE(endpoint.ok());
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    for (int i = 0; i < 3; ++i) {
      channels.push_back(NewChannelTo((*endpoint)->address()));
      const auto stub = v1::ModelService::NewStub(channels.back());
      for (int call = 0; call < 2; ++call) {
        grpc::ClientContext context;
        v1::GetModelResponse response;
        CHECK(stub->GetModel(&context, {}, &response).ok());
      }
    }
    CHECK(service.count() == 3);
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("a server at a unix socket gives the same as one at a port") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("espalier_unix_" + std::to_string(getpid()))).string();
  TestServer by_port;
  TestServer by_path({.listen = "unix:" + path});
  CHECK(by_path.server().port() == 0);
  const auto request = FewShot("the same everywhere", 3, 8);
  const Generated result = Generate(by_path.trees(), request);
  REQUIRE(result.status.ok());
  CHECK(TokensOf(result.finished()) == TokensOf(Generate(by_port.trees(), request).finished()));
  CHECK(IsServing(by_path.channel()));
  by_path.server().Drain();
  CHECK_FALSE(std::filesystem::exists(path));
}

// One question and its answer, by either version.
template <typename Service, typename Response, typename Request>
Response Ask(const std::shared_ptr<grpc::Channel>& channel, const Request& request) {
  const auto stub = Service::NewStub(channel);
  grpc::ClientContext context;
  const auto stream = stub->ServerReflectionInfo(&context);
  Response response;
  REQUIRE(stream->Write(request));
  REQUIRE(stream->Read(&response));
  stream->WritesDone();
  Response more;
  CHECK_FALSE(stream->Read(&more));
  CHECK(stream->Finish().ok());
  return response;
}

TEST_CASE("reflection answers as v1 and as v1alpha") {
  namespace v1 = grpc::reflection::v1;
  namespace v1alpha = grpc::reflection::v1alpha;
  TestServer server;
  const auto ask = [&](const v1::ServerReflectionRequest& request) {
    const auto answer = Ask<v1::ServerReflection, v1::ServerReflectionResponse>(server.channel(), request);
    v1alpha::ServerReflectionRequest alpha;
    REQUIRE(alpha.ParseFromString(request.SerializeAsString()));
    const auto alpha_answer =
        Ask<v1alpha::ServerReflection, v1alpha::ServerReflectionResponse>(server.channel(), alpha);
    CHECK(alpha_answer.SerializeAsString() == answer.SerializeAsString());
    return answer;
  };

  v1::ServerReflectionRequest list;
  list.set_host("h");
  list.set_list_services("*");
  const auto listed = ask(list);
  CHECK(listed.valid_host() == "h");
  CHECK(listed.original_request().list_services() == "*");
  std::set<std::string> names;
  for (const auto& service : listed.list_services_response().service()) names.insert(service.name());
  CHECK(names.count("espalier.v1.TreeService") == 1);
  CHECK(names.count("grpc.reflection.v1.ServerReflection") == 1);

  // What is listed can be described, file by file.
  for (const std::string& symbol :
       {std::string("espalier.v1.TreeService"), std::string("espalier.v1.TreeService.Generate"),
        std::string("espalier.v1.TreeNode"), std::string("grpc.reflection.v1.ServerReflection")}) {
    INFO(symbol);
    v1::ServerReflectionRequest request;
    request.set_file_containing_symbol(symbol);
    CHECK(ask(request).file_descriptor_response().file_descriptor_proto_size() > 0);
  }
  v1::ServerReflectionRequest by_name;
  by_name.set_file_by_filename("espalier/v1/tree.proto");
  const auto files = ask(by_name).file_descriptor_response();
  CHECK(files.file_descriptor_proto_size() >= 2);  // with types.proto, which it imports
  CHECK(files.file_descriptor_proto(0).find("espalier/v1/tree.proto") != std::string::npos);

  v1::ServerReflectionRequest unknown;
  unknown.set_file_containing_symbol("no.Such");
  CHECK(ask(unknown).error_response().error_code() == grpc::StatusCode::NOT_FOUND);
  v1::ServerReflectionRequest extension;
  extension.mutable_file_containing_extension()->set_containing_type("espalier.v1.TreeNode");
  CHECK(ask(extension).error_response().error_code() == grpc::StatusCode::NOT_FOUND);
  v1::ServerReflectionRequest numbers;
  numbers.set_all_extension_numbers_of_type("espalier.v1.TreeNode");
  CHECK(ask(numbers).all_extension_numbers_response().base_type_name() == "espalier.v1.TreeNode");
  CHECK(ask({}).error_response().error_code() == grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace espalier::test
