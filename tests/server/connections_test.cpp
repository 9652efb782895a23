// What the acceptor is made of: who gives way, what a peer is, listening sockets, the limit of open files.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "server/address.h"
#include "server/connection_table.h"
#include "server/file_limit.h"
#include "server/listening_socket.h"
#include "server/peer.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

using Time = ConnectionTable::Time;

Time At(int second) { return Time(std::chrono::seconds(second)); }

// A table with connections of named peers, numbered in the order in which they come.
class Peers {
 public:
  uint64_t Come(const std::string& share, int second) {
    const std::string name = share + ":" + std::to_string(++count_);
    return table.Add({.peer = {name, share}, .file = count_, .quiet_since = At(second)});
  }
  uint64_t Serve(const std::string& share, int second) {
    const uint64_t id = Come(share, second);
    table.SetServed(id, At(second));
    return id;
  }

  ConnectionTable table;

 private:
  int count_ = 0;
};

TEST_CASE(
    "the peer with most connections gives way: first who says nothing, then the longest without a call") {
  Peers peers;
  peers.Serve("hog", 7);
  const uint64_t idle_old = peers.Serve("hog", 3);
  const uint64_t silent_new = peers.Come("hog", 9);
  const uint64_t silent_old = peers.Come("hog", 8);
  const uint64_t modest = peers.Serve("modest", 1);
  for (const uint64_t id : {silent_old, silent_new, idle_old}) {
    CHECK(peers.table.WhoGivesWay("new") == id);
    peers.table.Remove(id);
  }
  CHECK(peers.table.WhoGivesWay("new") == modest);  // one each: the longest quiet
  CHECK(peers.table.size() == 2);
}

TEST_CASE("no one gives way to a peer that has as many, nor with a call under way") {
  Peers peers;
  const uint64_t first = peers.Serve("a", 1);
  peers.Serve("b", 2);
  CHECK_FALSE(peers.table.WhoGivesWay("a").has_value());
  CHECK(peers.table.WhoGivesWay("c") == first);
  peers.table.CallStarted(first);
  CHECK(peers.table.WhoGivesWay("c") == first + 1);
  peers.table.CallStarted(first + 1);
  CHECK_FALSE(peers.table.WhoGivesWay("c").has_value());
  peers.table.CallStarted(first);
  peers.table.CallEnded(first, At(5));
  CHECK_FALSE(peers.table.WhoGivesWay("c").has_value());  // one of two has ended
  peers.table.CallEnded(first, At(6));
  CHECK(peers.table.WhoGivesWay("c") == first);
}

TEST_CASE("a peer whose connections are all in use is passed over for one that has an idle one") {
  Peers peers;
  for (int i = 0; i < 3; ++i) peers.table.CallStarted(peers.Serve("busy", i));
  peers.Serve("idle", 7);
  const uint64_t second = peers.Serve("idle", 5);
  CHECK(peers.table.WhoGivesWay("new") == second);
  CHECK_FALSE(peers.table.WhoGivesWay("busy").has_value());
}

TEST_CASE("a call may outlive its connection") {
  Peers peers;
  const uint64_t id = peers.Serve("a", 1);
  CHECK(peers.table.FindNamed("a:1") == id);
  peers.table.CallStarted(id);
  peers.table.Remove(id);
  peers.table.CallEnded(id, At(12));
  CHECK(peers.table.size() == 0);
  CHECK_FALSE(peers.table.FindNamed("a:1").has_value());
}

TEST_CASE("who gives way is what a search of all connections finds, whatever has happened") {
  const uint32_t seed = 20'251'201;
  INFO("seed " << seed);
  std::mt19937 random(seed);
  Peers peers;
  const std::vector<std::string> shares{"a", "b", "c", "d"};
  for (int step = 0; step < 4000; ++step) {
    const auto ids = peers.table.Ids();
    const uint64_t some = ids.empty() ? 0 : ids[random() % ids.size()];
    switch (random() % 6) {
      case 0:
      case 1:
        peers.Come(shares[random() % shares.size()], step);
        break;
      case 2:
        if (ids.size() > 20) peers.table.Remove(some);
        break;
      case 3:
        if (some != 0 && !peers.table.Find(some)->served) peers.table.SetServed(some, At(step));
        break;
      case 4:
        if (some != 0 && peers.table.Find(some)->served) peers.table.CallStarted(some);
        break;
      default:
        if (some != 0 && peers.table.Find(some)->calls > 0) peers.table.CallEnded(some, At(step));
    }
    const std::string& newcomer = shares[random() % shares.size()];
    std::map<std::string, int> counts;
    for (const uint64_t id : peers.table.Ids()) ++counts[peers.table.Find(id)->peer.share];
    std::optional<uint64_t> expected;
    std::tuple<int, bool, Time, uint64_t> best;
    for (const uint64_t id : peers.table.Ids()) {
      const auto& each = *peers.table.Find(id);
      if (each.calls > 0) continue;
      const std::tuple rank{-counts[each.peer.share], each.served, each.quiet_since, id};
      if (!expected || rank < best) {
        expected = id;
        best = rank;
      }
    }
    if (expected && -std::get<0>(best) <= counts[newcomer]) expected.reset();
    REQUIRE(peers.table.WhoGivesWay(newcomer) == expected);
  }
}

TEST_CASE("a peer is an address, of IPv6 the first half; on loopback and unix sockets a connection") {
  const auto peer = [](const std::string& text) {
    const Peer found = PeerOfCall(text);
    return found.connection + " " + found.share;
  };
  CHECK(peer("ipv4:192.0.2.7:4711") == "192.0.2.7:4711 192.0.2.7");
  CHECK(peer("ipv4:127.0.0.1:4711") == "127.0.0.1:4711 127.0.0.1:4711");
  CHECK(peer("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711") == "[2001:db8:1:2:3:4:5:6]:4711 2001:db8:1:2::/64");
  CHECK(peer("ipv6:[2001:db8:1:2:9::1]:4711") == "[2001:db8:1:2:9::1]:4711 2001:db8:1:2::/64");
  CHECK(peer("ipv6:%5B::1%5D:4711") == "[::1]:4711 [::1]:4711");
  CHECK(peer("ipv6:%5Bfe80::1%252%5D:4711") == "[fe80::1]:4711 fe80::/64");
  CHECK(peer("fd:17") == "fd:17 fd:17");
  CHECK(peer("ipv4:nonsense") == "ipv4:nonsense ipv4:nonsense");
  CHECK(peer("") == " ");

  sockaddr_storage address{};
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(4711);
  REQUIRE(inet_pton(AF_INET6, "::ffff:192.0.2.7", &v6.sin6_addr) == 1);
  CHECK(PeerOfSocket(address, 3).connection == "192.0.2.7:4711");  // as gRPC names it
  CHECK(PeerOfSocket(address, 3).share == "192.0.2.7");
  address = {};
  address.ss_family = AF_UNIX;
  CHECK(PeerOfSocket(address, 3).connection == "fd:3");
}

TEST_CASE("addresses are HOST:PORT or unix:PATH") {
  CHECK(ParseAddress("unix:/run/e.sock")->path == "/run/e.sock");
  CHECK(ParseAddress("unix:///run/e.sock")->path == "/run/e.sock");
  CHECK(ParseAddress("unix:e.sock")->path == "e.sock");
  for (const char* wrong :
       {"unix:", "unix://", "unix://run/e.sock", "", ":1", "host", "host:", "host:65536"}) {
    INFO(wrong);
    CHECK_FALSE(ParseAddress(wrong).has_value());
  }
  CHECK(ParseAddress("[::1]:5")->host == "[::1]");
  CHECK_FALSE(ParseAddress("[::1]:5")->is_unix());
}

TEST_CASE("connections leave some of the open files to everything else") {
  CHECK(ConnectionsFor(1024) == 768);
  CHECK(ConnectionsFor(4096) == 3584);
  CHECK(ConnectionsFor(1'000'000) == 10'000);
  CHECK(ConnectionsFor(10) == 16);
  CHECK(RaiseFileLimit() > 0);
}

// A folder of its own for sockets; removed at the end.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("espalier_sock_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const char* name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// What is wrong with listening there; empty: nothing.
std::string WhyNot(const std::string& address) {
  const auto sockets = ListeningSocket::Open("--listen", address);
  return sockets.ok() ? "" : sockets.error().ToString();
}

bool Connects(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::strncpy(name.sun_path, path.c_str(), sizeof name.sun_path - 1);
  const int file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = connect(file, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0;
  close(file);
  return connected;
}

TEST_CASE("a unix socket is there while it listens, and gone afterwards") {
  const Folder folder;
  const std::string path = folder / "e.sock";
  {
    auto sockets = ListeningSocket::Open("--listen", "unix://" + path);
    REQUIRE(sockets.ok());
    CHECK(sockets->front().is_unix());
    CHECK(sockets->front().port() == 0);
    CHECK(Connects(path));
    CHECK(WhyNot("unix:" + path) == "--listen: cannot listen at unix:" + path + ": Address already in use");
    CHECK(Connects(path));  // the refusal has harmed nothing
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("the socket of a server that was killed is replaced, anything else is left alone") {
  const Folder folder;
  const std::string path = folder / "e.sock";
  {
    // A socket whose owner has gone without removing it.
    const int file = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strncpy(name.sun_path, path.c_str(), sizeof name.sun_path - 1);
    REQUIRE(bind(file, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    close(file);
    REQUIRE(std::filesystem::exists(path));
    CHECK(WhyNot("unix:" + path).empty());
    CHECK_FALSE(std::filesystem::exists(path));
  }
  std::ofstream(path) << "precious";
  CHECK(WhyNot("unix:" + path) ==
        "--listen: cannot listen at unix:" + path + ": there is something that is no socket");
  CHECK(std::filesystem::file_size(path) == 8);
  std::filesystem::create_symlink(path, folder / "link");
  CHECK(WhyNot("unix:" + (folder / "link")).find("no socket") != std::string::npos);
  std::filesystem::create_directory(folder / "folder");
  CHECK(WhyNot("unix:" + (folder / "folder")).find("no socket") != std::string::npos);
}

TEST_CASE("a socket file that another server has put in place is not removed") {
  const Folder folder;
  const std::string path = folder / "e.sock";
  auto first = ListeningSocket::Open("--listen", "unix:" + path);
  REQUIRE(first.ok());
  std::filesystem::remove(path);
  auto second = ListeningSocket::Open("--listen", "unix:" + path);
  REQUIRE(second.ok());
  first->clear();
  CHECK(Connects(path));
}

TEST_CASE("where listening is not possible the reason is said") {
  const Folder folder;
  CHECK(WhyNot("unix:" + (folder / "none/e.sock")).find("No such file or directory") != std::string::npos);
  CHECK(WhyNot("unix:/" + std::string(200, 'x')).find("must be shorter than 108 bytes") != std::string::npos);
  CHECK(WhyNot("203.0.113.1:0").find("Cannot assign requested address") != std::string::npos);
  CHECK(WhyNot("no host:0").find("cannot listen at no host:0: ") != std::string::npos);
  auto taken = ListeningSocket::Open("--listen", "127.0.0.1:0");
  REQUIRE(taken.ok());
  REQUIRE(taken->front().port() > 0);
  CHECK(WhyNot("127.0.0.1:" + std::to_string(taken->front().port())).find("Address already in use") !=
        std::string::npos);
}

TEST_CASE("a host with several addresses has one port") {
  auto sockets = ListeningSocket::Open("--listen", "localhost:0");
  REQUIRE(sockets.ok());
  for (const ListeningSocket& each : *sockets) CHECK(each.port() == sockets->front().port());
}

}  // namespace
}  // namespace espalier::test
