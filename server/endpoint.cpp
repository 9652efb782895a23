#include "server/endpoint.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <spdlog/spdlog.h>

#include <limits>
#include <optional>
#include <utility>

#include "server/acceptor.h"
#include "server/address.h"
#include "server/call_observer.h"
#include "server/file_limit.h"
#include "server/listening_socket.h"
#include "server/message_stream.h"
#include "server/port_file.h"
#include "server/reflection_service.h"

namespace espalier {
namespace {

constexpr int kMaxMetadataBytes = 16 << 10;  // of one call
// A client pings again after its last ping was answered, so even one that is slow now and then has no strike.
constexpr int kMaxPingStrikes = 10;

void SetLimits(const TransportLimits& limits, grpc::ServerBuilder& builder) {
  const int never = std::numeric_limits<int>::max();
  auto set = [&builder](const char* name, int value) { builder.AddChannelArgument(name, value); };
  set(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_streams);
  set(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  set(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, limits.handshake_timeout_ms);
  set(GRPC_ARG_MAX_CONNECTION_IDLE_MS, limits.idle_timeout_ms == 0 ? never : limits.idle_timeout_ms);
  set(GRPC_ARG_KEEPALIVE_TIME_MS, limits.keepalive_time_ms == 0 ? never : limits.keepalive_time_ms);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, limits.keepalive_timeout_ms);
  // Also a client that waits for nothing may be dead, and may ask whether the server is.
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // the server's own: any number
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, limits.min_client_ping_interval_ms);
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, kMaxPingStrikes);
  grpc::ResourceQuota quota("transport");
  quota.Resize(static_cast<size_t>(limits.memory_bytes));
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // gRPC would inflate a message to any size; MessageStream does it, within kMaxMessageBytes.
  set(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
}

AcceptorOptions OptionsOf(const TransportLimits& limits) {
  const int64_t file_limit = RaiseFileLimit();
  AcceptorOptions options;
  options.max_connections = limits.max_connections == 0 ? ConnectionsFor(file_limit) : limits.max_connections;
  options.handshake_timeout = std::chrono::milliseconds(limits.handshake_timeout_ms);
  options.unsent_timeout =
      std::chrono::milliseconds(limits.keepalive_time_ms == 0 ? 0 : limits.keepalive_timeout_ms);
  spdlog::debug("up to {} connections, {} open files", options.max_connections, file_limit);
  return options;
}

class GrpcEndpoint final : public Endpoint {
 public:
  ~GrpcEndpoint() override { Stop(std::chrono::system_clock::now()); }

  Status Listen(const EndpointOptions& options, const std::vector<NamedService>& services) {
    auto sockets = ListeningSocket::Open(options.flag, options.address);
    if (!sockets) return sockets.error();
    acceptor_ = std::make_shared<Acceptor>(std::move(*sockets), OptionsOf(options.limits));
    port_ = acceptor_->port();
    const std::optional<Address> address = ParseAddress(options.address);
    address_ = !address || address->is_unix() ? options.address : address->host + ":" + std::to_string(port_);
    if (!Build(options, services)) {
      return InternalError("gRPC cannot serve at " + options.address);
    }
    for (const NamedService& each : services) {
      server_->GetHealthCheckService()->SetServingStatus(each.name, true);
    }
    StartAccepting();
    return options.port_file.empty() ? Status() : WritePortFile(options.port_flag, options.port_file, port_);
  }

  int port() const override { return port_; }
  const std::string& address() const override { return address_; }

  void StopServing() override { server_->GetHealthCheckService()->SetServingStatus(false); }

  void Stop(std::chrono::system_clock::time_point deadline) override {
    if (server_ == nullptr) return;
    acceptor_->Stop();
    server_->Shutdown(deadline);
    server_->Wait();
  }

 private:
  bool Build(const EndpointOptions& options, const std::vector<NamedService>& services) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    SetLimits(options.limits, builder);
    external_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        grpc::InsecureServerCredentials());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
    observers.push_back(MakeCallObserver(acceptor_));
    builder.experimental().SetInterceptorCreators(std::move(observers));
    std::vector<std::string> names{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                   "grpc.reflection.v1alpha.ServerReflection"};
    for (const NamedService& each : services) {
      if (each.service == nullptr) continue;
      builder.RegisterService(each.service);
      names.emplace_back(each.name);
    }
    reflection_.push_back(MakeReflectionV1(names));
    reflection_.push_back(MakeReflectionV1Alpha(names));
    for (const auto& service : reflection_) builder.RegisterService(service.get());
    if (options.otherwise != nullptr) builder.RegisterCallbackGenericService(options.otherwise);
    server_ = builder.BuildAndStart();
    return server_ != nullptr;
  }

  void StartAccepting() {
    if (acceptor_->is_unix()) {
      // Through its acceptor gRPC would call the peers of all unix sockets "unix:"; this way they are
      // "fd:17".
      acceptor_->Start([this](int file) { grpc::AddInsecureChannelFromFd(server_.get(), file); });
      return;
    }
    acceptor_->Start([this](int file) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.fd = file;
      external_->HandleNewConnection(&connection);
    });
  }

  // In this order: calls use what stands before the server.
  std::shared_ptr<Acceptor> acceptor_;
  std::vector<std::unique_ptr<grpc::Service>> reflection_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> external_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
};

}  // namespace

Result<std::unique_ptr<Endpoint>> Endpoint::Start(const EndpointOptions& options,
                                                  const std::vector<NamedService>& services) {
  auto endpoint = std::make_unique<GrpcEndpoint>();
  if (Status status = endpoint->Listen(options, services); !status) return status.error();
  return std::unique_ptr<Endpoint>(std::move(endpoint));
}

}  // namespace espalier
