#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "server/transport_limits.h"

namespace espalier {

// What an Endpoint is made of.
struct EndpointOptions {
  std::string flag;         // the setting that names the address, "--listen"; errors name it
  std::string address;      // HOST:PORT, port 0 takes any free one; or unix:PATH
  std::string port_flag{};  // the setting that names the port file
  std::string port_file{};  // the port is written here once listening; empty: nowhere
  TransportLimits limits{};
  // The answer to calls of methods that no service has, by their path; null: gRPC's own. Outlives the
  // endpoint.
  grpc::CallbackGenericService* otherwise = nullptr;
};

// A service and the name under which health knows it.
struct NamedService {
  const char* name;        // "espalier.v1.TreeService"
  grpc::Service* service;  // null: it is served at another address, only its health is known here
};

// One listening address with its own gRPC server: some services, health and reflection. Its connections are
// accepted by an Acceptor. Thread-safe.
class Endpoint {
 public:
  // Listens and serves at once; health is SERVING. The services outlive the endpoint.
  static Result<std::unique_ptr<Endpoint>> Start(const EndpointOptions& options,
                                                 const std::vector<NamedService>& services);

  // Stops at once if it was not stopped.
  virtual ~Endpoint() = default;

  // The port at which it listens; 0 for a unix socket.
  virtual int port() const = 0;
  // EndpointOptions::address with that port.
  virtual const std::string& address() const = 0;

  // Every service's health turns to NOT_SERVING, for good.
  virtual void StopServing() = 0;

  // Stops listening; calls that are under way have until then, and are cut off after that. Returns when the
  // last call has ended.
  virtual void Stop(std::chrono::system_clock::time_point deadline) = 0;
};

}  // namespace espalier
