#pragma once

#include <memory>
#include <string>

#include "espalier/v1/admin.grpc.pb.h"
#include "server/cli/commands.h"

namespace espalier::cli {

// AdminService, which listens apart from the others.
struct Admin {
  std::string address;
  std::unique_ptr<v1::AdminService::Stub> stub;
};

// At the address that was given, else where the server says. Returns an exit code; reports errors.
int ConnectAdmin(const CommonOptions& common, Admin& admin);

// Report for its calls.
int ReportAdmin(const grpc::Status& status, const Admin& admin, bool as_json);

}  // namespace espalier::cli
