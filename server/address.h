#pragma once

#include <optional>
#include <string>

namespace espalier {

// Where a server listens or is found: a host and a port, or the path of a unix socket.
struct Address {
  std::string host;  // as it was written: an IPv6 address in brackets; empty for a unix socket
  int port = 0;
  std::string path;  // of a unix socket; empty for a host

  bool is_unix() const { return !path.empty(); }
};

// "HOST:PORT" with a port in [0, 65535], "unix:PATH" or "unix:///PATH"; nothing where the text is something
// else.
std::optional<Address> ParseAddress(const std::string& text);

// Whether only this machine is meant: loopback, by number or as "localhost", or a unix socket.
bool IsLocal(const Address& address);

}  // namespace espalier
