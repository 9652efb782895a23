#pragma once

#include <string>

#include "kernels/base/result.h"

namespace espalier {

// Where a client that reached a server at `server` finds its AdminService, by what that server says of it
// (GetModelResponse.admin_address): its loopback is not the client's, and "every interface" is the one that
// the client has reached. Error (kFailedPrecondition): it cannot be reached from there, and why.
Result<std::string> AdminAddressFor(const std::string& server, const std::string& named);

}  // namespace espalier
