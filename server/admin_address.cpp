#include "server/admin_address.h"

#include <optional>

#include "server/address.h"

namespace espalier {
namespace {

bool IsEveryInterface(const std::string& host) { return host == "0.0.0.0" || host == "[::]"; }

}  // namespace

Result<std::string> AdminAddressFor(const std::string& server, const std::string& named) {
  const auto refused = [](std::string why) {
    return Error{ErrorCode::kFailedPrecondition, "", std::move(why)};
  };
  if (named.empty()) {
    return refused(
        "the server at " + server +
        " has no AdminService: it was started with --admin-listen off, or the port was taken (its log "
        "says which)");
  }
  const std::optional<Address> reached = ParseAddress(server);
  const std::optional<Address> admin = ParseAddress(named);
  if (!reached || !admin) return named;
  if (IsLocal(*admin) && !IsLocal(*reached)) {
    return refused("AdminService of the server at " + server + " listens at " + named +
                   " of its own machine only: ask there, or forward the port and name it by --admin");
  }
  if (!admin->is_unix() && IsEveryInterface(admin->host)) {
    return (reached->is_unix() ? "127.0.0.1" : reached->host) + ":" + std::to_string(admin->port);
  }
  return named;
}

}  // namespace espalier
