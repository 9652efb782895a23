#include "server/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "tests/support/catch.h"

namespace espalier {
namespace {

TEST_CASE("an IPv4 address is a peer, whatever the port") {
  CHECK(PeerOfCall("ipv4:192.0.2.7:4711").share == "192.0.2.7");
  CHECK(PeerOfCall("ipv4:192.0.2.7:4712").share == "192.0.2.7");
  CHECK(PeerOfCall("ipv4:192.0.2.7:4711").connection == "192.0.2.7:4711");
  CHECK(PeerOfCall("ipv4:192.0.2.8:4711").share != "192.0.2.7");
}

TEST_CASE("the first 64 bits of an IPv6 address are a peer") {
  const std::string share = PeerOfCall("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711").share;
  CHECK(share == PeerOfCall("ipv6:%5B2001:db8:1:2::1%5D:1").share);
  CHECK(share == PeerOfCall("ipv6:[2001:db8:1:2:ffff::]:2").share);
  CHECK(share != PeerOfCall("ipv6:%5B2001:db8:1:3::1%5D:1").share);
  CHECK(PeerOfCall("ipv6:%5Bfe80::1%25eth0%5D:1").share == PeerOfCall("ipv6:%5Bfe80::2%5D:1").share);
}

TEST_CASE("an IPv4 address in an IPv6 one is the same peer") {
  CHECK(PeerOfCall("ipv6:%5B::ffff:192.0.2.7%5D:4711").share == "192.0.2.7");
  CHECK(PeerOfCall("ipv6:%5B::ffff:127.0.0.1%5D:4711").share == PeerOfCall("ipv4:127.0.0.1:4711").share);
}

TEST_CASE("on loopback and unix sockets a connection is a peer") {
  CHECK(PeerOfCall("ipv4:127.0.0.1:1").share != PeerOfCall("ipv4:127.0.0.1:2").share);
  CHECK(PeerOfCall("ipv6:%5B::1%5D:1").share != PeerOfCall("ipv6:%5B::1%5D:2").share);
  CHECK(PeerOfCall("fd:7").share != PeerOfCall("fd:8").share);
  CHECK(PeerOfCall("unix:").share == PeerOfCall("unix:").share);
}

TEST_CASE("what is no address is a peer of its own") {
  for (const char* text : {"", "ipv4:", "ipv4:300.1.1.1:5", "ipv6:%5B::1", "ipv6:", "else:1"})
    CHECK(PeerOfCall(text).share == text);
}

TEST_CASE("a socket is the same peer as its calls") {
  sockaddr_storage storage{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  v4.sin_family = AF_INET;
  v4.sin_port = htons(4711);
  REQUIRE(inet_pton(AF_INET, "192.0.2.7", &v4.sin_addr) == 1);
  CHECK(PeerOfSocket(storage, 5).share == PeerOfCall("ipv4:192.0.2.7:4711").share);
  storage = {};
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(4711);
  REQUIRE(inet_pton(AF_INET6, "2001:db8::5", &v6.sin6_addr) == 1);
  CHECK(PeerOfSocket(storage, 5).share == PeerOfCall("ipv6:%5B2001:db8::9%5D:1").share);
  storage = {};
  storage.ss_family = AF_UNIX;
  CHECK(PeerOfSocket(storage, 5).share == PeerOfCall("fd:5").share);
}

}  // namespace
}  // namespace espalier
