#include "server/endpoint.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "server/address.h"
#include "server/port_file.h"

namespace espalier {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

// gRPC says only that it cannot listen at HOST:PORT; trying it here says why. Empty: it would work now.
std::string WhyNotListening(const std::string& address) {
  const std::optional<Address> parsed = ParseAddress(address);
  if (!parsed) return "not HOST:PORT";
  std::string host = parsed->host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown = getaddrinfo(host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
  if (unknown != 0) return gai_strerror(unknown);
  std::string why;
  for (const addrinfo* each = found; each != nullptr && why.empty(); each = each->ai_next) {
    const int file = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
    const int on = 1;  // as gRPC has it: connections of an earlier server do not count
    if (file < 0 || setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(file, each->ai_addr, each->ai_addrlen) != 0 || listen(file, 1) != 0) {
      why = std::generic_category().message(errno);
    }
    if (file >= 0) close(file);
  }
  freeaddrinfo(found);
  return why;
}

class GrpcEndpoint final : public Endpoint {
 public:
  ~GrpcEndpoint() override { Stop(std::chrono::system_clock::now()); }

  Status Listen(const EndpointOptions& options, const std::vector<NamedService>& services) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // One server an address: a second one fails to start instead of sharing its requests.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port_);
    for (const NamedService& each : services) builder.RegisterService(each.service);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      const std::string why = WhyNotListening(options.address);
      return InvalidArgument(options.flag,
                             "cannot listen at " + options.address + (why.empty() ? "" : ": " + why));
    }
    for (const NamedService& each : services) {
      server_->GetHealthCheckService()->SetServingStatus(each.name, true);
    }
    return options.port_file.empty() ? Status() : WritePortFile(options.port_flag, options.port_file, port_);
  }

  int port() const override { return port_; }

  void StopServing() override { server_->GetHealthCheckService()->SetServingStatus(false); }

  void Stop(std::chrono::system_clock::time_point deadline) override {
    if (server_ == nullptr) return;
    server_->Shutdown(deadline);
    server_->Wait();
  }

 private:
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace

Result<std::unique_ptr<Endpoint>> Endpoint::Start(const EndpointOptions& options,
                                                  const std::vector<NamedService>& services) {
  auto endpoint = std::make_unique<GrpcEndpoint>();
  if (Status status = endpoint->Listen(options, services); !status) return status.error();
  return std::unique_ptr<Endpoint>(std::move(endpoint));
}

}  // namespace espalier
