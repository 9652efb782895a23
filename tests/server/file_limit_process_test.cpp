// A server process that runs out of open files.
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/child_process.h"
#include "tests/server/raw_connection.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

// espalier-server with the demo model, at a free port.
class DemoServer {
 public:
  DemoServer()
      : folder_(std::filesystem::temp_directory_path() / ("espalier_files_" + std::to_string(getpid()))),
        port_file_((std::filesystem::create_directories(folder_), folder_ / "port").string()),
        process_({ESPALIER_SERVER_PROGRAM, "--model", (SourceDir() / "model/demo").string(), "--listen",
                  "127.0.0.1:0", "--port-file", port_file_, "--threads", "1", "--kv-cache-bytes", "67108864"},
                 (folder_ / "log").string()) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!(std::ifstream(port_file_) >> port_)) {
      if (std::chrono::steady_clock::now() > deadline) FAIL("the server does not listen");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  ~DemoServer() { std::filesystem::remove_all(folder_); }

  int port() const { return port_; }
  ChildProcess& process() { return process_; }
  int OpenFiles() const {
    const std::filesystem::directory_iterator files("/proc/" + std::to_string(process_.pid()) + "/fd");
    return static_cast<int>(std::distance(begin(files), end(files)));
  }
  void LimitFiles(int files) const {
    rlimit limit{};
    REQUIRE(prlimit(process_.pid(), RLIMIT_NOFILE, nullptr, &limit) == 0);
    CHECK(limit.rlim_cur == limit.rlim_max);  // raised when it started
    limit.rlim_cur = static_cast<rlim_t>(files);
    REQUIRE(prlimit(process_.pid(), RLIMIT_NOFILE, &limit, nullptr) == 0);
  }
  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_), grpc::InsecureChannelCredentials(),
                                     arguments);
  }

 private:
  std::filesystem::path folder_;
  std::string port_file_;
  ChildProcess process_;
  int port_ = 0;
};

TEST_CASE("a server without open files left refuses connections, keeps those it has, and recovers") {
  DemoServer server;
  const auto channel = server.NewChannel();
  REQUIRE(IsServing(channel));
  server.LimitFiles(server.OpenFiles() + 8);
  for (int round = 0; round < 2; ++round) {
    std::vector<RawConnection> flood;
    for (int i = 0; i < 64; ++i) flood.emplace_back(server.port());
    int refused = 0;
    for (auto each = flood.rbegin(); each != flood.rend() && refused < 40; ++each)
      refused += each->IsClosedWithin(std::chrono::seconds(5)) ? 1 : 0;
    CHECK(refused == 40);
    CHECK(IsServing(channel));
    flood.clear();
    // Without waiting for a new place the first try may be refused too.
    bool serves = false;
    for (int tries = 0; tries < 200 && !serves; ++tries) {
      std::string answer;
      serves = SendRaw(server.NewChannel(), "/grpc.health.v1.Health/Check", "", &answer).ok();
      if (!serves) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    CHECK(serves);
  }
  server.process().Send(SIGTERM);
  CHECK(server.process().WaitForEnd(60) == 0);
}

}  // namespace
}  // namespace espalier::test
