#include "tests/server/server_process.h"

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

namespace fs = std::filesystem;

fs::path NewFolder() {
  fs::path folder = fs::temp_directory_path() / ("espalier_server_" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

std::vector<std::string> CommandLine(const fs::path& folder, const std::vector<std::string>& flags,
                                     const std::string& model) {
  std::vector<std::string> words = {ESPALIER_SERVER_PROGRAM,
                                    "--model",
                                    (SourceDir() / model).string(),
                                    "--listen",
                                    "127.0.0.1:0",
                                    "--admin-listen",
                                    "off",
                                    "--port-file",
                                    (folder / "port").string(),
                                    "--threads",
                                    "1"};
  words.insert(words.end(), flags.begin(), flags.end());
  return words;
}

}  // namespace

int WaitForPort(ChildProcess& server, const std::string& port_file) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!fs::exists(port_file)) {
    if (server.WaitForEnd(0)) return 0;
    if (std::chrono::steady_clock::now() > deadline) FAIL("the server does not listen");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  int port = 0;
  std::ifstream(port_file) >> port;  // never half a file
  return port;
}

ServerProcess::ServerProcess(const std::vector<std::string>& flags, const std::string& model)
    : folder_(NewFolder()),
      process_(CommandLine(folder_, flags, model), (folder_ / "log").string()),
      port_(WaitForPort(process_, (folder_ / "port").string())) {
  INFO(Log());
  REQUIRE(port_ > 0);
}

ServerProcess::~ServerProcess() { fs::remove_all(folder_); }

std::string ServerProcess::Log() const {
  std::ostringstream text;
  text << std::ifstream(folder_ / "log").rdbuf();
  return text.str();
}

std::shared_ptr<grpc::Channel> ServerProcess::NewChannel() const {
  return NewChannelTo("127.0.0.1:" + std::to_string(port_));
}

}  // namespace espalier::test
