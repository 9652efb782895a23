#pragma once

#include <sys/socket.h>

#include <string>

namespace espalier {

// Who is at the other end of a connection.
struct Peer {
  // One connection: "192.0.2.7:4711", "[2001:db8::1]:4711"; for a unix socket "fd:17", the server's file.
  std::string connection;
  // Who shares with others as one: "192.0.2.7", "2001:db8:0:0::/64"; on loopback and unix sockets, where many
  // users have one address, the connection.
  std::string share;
};

// Of what accept() gave; `file` is the connection's descriptor.
Peer PeerOfSocket(const sockaddr_storage& address, int file);

// Of what grpc::ServerContextBase::peer() gives: "ipv4:192.0.2.7:4711", "ipv6:%5B::1%5D:4711", "fd:17". A
// text of another form is connection and share.
Peer PeerOfCall(const std::string& grpc_peer);

}  // namespace espalier
