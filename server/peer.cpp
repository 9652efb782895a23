#include "server/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cstdlib>
#include <cstring>

namespace espalier {
namespace {

std::string Text(int family, const void* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  return inet_ntop(family, address, text.data(), text.size()) == nullptr ? "" : text.data();
}

Peer PeerOf(const in_addr& address, int port) {
  constexpr uint32_t kLoopbackNet = 127;
  const std::string host = Text(AF_INET, &address);
  const std::string connection = host + ":" + std::to_string(port);
  return {connection, ntohl(address.s_addr) >> 24 == kLoopbackNet ? connection : host};
}

// The first 64 bits are what a provider gives one customer; the rest is theirs to choose.
Peer PeerOf(const in6_addr& address, int port) {
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    in_addr mapped{};
    std::memcpy(&mapped, &address.s6_addr[12], sizeof mapped);
    return PeerOf(mapped, port);
  }
  const std::string connection = "[" + Text(AF_INET6, &address) + "]:" + std::to_string(port);
  if (IN6_IS_ADDR_LOOPBACK(&address)) return {connection, connection};
  in6_addr net = address;
  std::memset(&net.s6_addr[8], 0, 8);
  return {connection, Text(AF_INET6, &net) + "/64"};
}

std::string WithoutEscapes(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 3, "%5B") == 0 || text.compare(i, 3, "%5D") == 0) {
      plain += text[i + 2] == 'B' ? '[' : ']';
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

}  // namespace

Peer PeerOfSocket(const sockaddr_storage& address, int file) {
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return PeerOf(v4.sin_addr, ntohs(v4.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    return PeerOf(v6.sin6_addr, ntohs(v6.sin6_port));
  }
  const std::string connection = "fd:" + std::to_string(file);
  return {connection, connection};
}

Peer PeerOfCall(const std::string& grpc_peer) {
  const Peer unknown{grpc_peer, grpc_peer};
  const bool is_v4 = grpc_peer.starts_with("ipv4:");
  if (!is_v4 && !grpc_peer.starts_with("ipv6:")) return unknown;
  const std::string text = WithoutEscapes(grpc_peer.substr(5));
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return unknown;
  const int port = std::atoi(text.c_str() + colon + 1);
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  host = host.substr(0, host.find('%'));  // the zone of a link-local address
  in_addr v4{};
  in6_addr v6{};
  if (is_v4) return inet_pton(AF_INET, host.c_str(), &v4) == 1 ? PeerOf(v4, port) : unknown;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 ? PeerOf(v6, port) : unknown;
}

}  // namespace espalier
