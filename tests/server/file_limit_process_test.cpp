// A server process that runs out of open files.
#include <sys/resource.h>
#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/raw_connection.h"
#include "tests/server/server_process.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

int OpenFiles(pid_t process) {
  const std::filesystem::directory_iterator files("/proc/" + std::to_string(process) + "/fd");
  return static_cast<int>(std::distance(begin(files), end(files)));
}

void LimitFiles(pid_t process, int files) {
  rlimit limit{};
  REQUIRE(prlimit(process, RLIMIT_NOFILE, nullptr, &limit) == 0);
  CHECK(limit.rlim_cur == limit.rlim_max);  // raised when it started
  limit.rlim_cur = static_cast<rlim_t>(files);
  REQUIRE(prlimit(process, RLIMIT_NOFILE, &limit, nullptr) == 0);
}

TEST_CASE("a server without open files left refuses connections, keeps those it has, and recovers") {
  ServerProcess server({"--kv-cache-bytes", "67108864"});
  const pid_t process = server.process().pid();
  const auto channel = server.NewChannel();
  REQUIRE(IsServing(channel));
  LimitFiles(process, OpenFiles(process) + 8);
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
