#include "server/address.h"

#include <charconv>

namespace espalier {

std::optional<Address> ParseAddress(const std::string& text) {
  Address address;
  if (text.starts_with("unix:")) {
    address.path = text.substr(text.starts_with("unix://") ? 7 : 5);
    const bool is_absolute_form = !text.starts_with("unix://") || address.path.starts_with('/');
    if (address.path.empty() || !is_absolute_form) return std::nullopt;
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  address.host = text.substr(0, colon);
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (error != std::errc() || stop != end || address.port < 0 || address.port > 65535) return std::nullopt;
  return address;
}

bool IsLocal(const Address& address) {
  return address.is_unix() || address.host == "localhost" || address.host == "[::1]" ||
         address.host.starts_with("127.");
}

}  // namespace espalier
