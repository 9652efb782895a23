#pragma once

#include <optional>
#include <string>

namespace espalier::cli {

struct Address {
  std::string host;  // as it was written: an IPv6 address in brackets
  int port = 0;
};

// "HOST:PORT" with a port in [0, 65535]; nothing where the text is something else.
std::optional<Address> ParseAddress(const std::string& text);

}  // namespace espalier::cli
