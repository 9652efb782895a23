#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/server/child_process.h"

namespace espalier::test {

// The port, once the server has written it to the file; 0: it ended before. Fails the test after a minute.
int WaitForPort(ChildProcess& server, const std::string& port_file);

// espalier-server with one thread, without AdminService, at a free port.
class ServerProcess {
 public:
  // `flags`: what else its command line holds; `model`: its folder in the source tree. Returns when the
  // server listens.
  explicit ServerProcess(const std::vector<std::string>& flags, const std::string& model = "model/demo");
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  ChildProcess& process() { return process_; }
  int port() const { return port_; }
  std::string Log() const;
  // A connection of its own.
  std::shared_ptr<grpc::Channel> NewChannel() const;

 private:
  std::filesystem::path folder_;
  ChildProcess process_;
  int port_ = 0;
};

}  // namespace espalier::test
