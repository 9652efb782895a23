#include "server/cli/admin.h"

#include "espalier/v1/model.grpc.pb.h"
#include "server/admin_address.h"
#include "server/cli/connection.h"

namespace espalier::cli {

int ConnectAdmin(const CommonOptions& common, Admin& admin) {
  admin.address = common.admin;
  if (admin.address.empty()) {
    const auto models = v1::ModelService::NewStub(Connect(common.server));
    grpc::ClientContext context;
    const CancelOnSignal cancel(context);
    v1::GetModelResponse model;
    const grpc::Status status = models->GetModel(&context, {}, &model);
    if (!status.ok()) return Report(status, common.server, common.json);
    const auto address = AdminAddressFor(common.server, model.admin_address());
    if (!address) {
      return Report({grpc::StatusCode::FAILED_PRECONDITION, address.error().message}, common.server,
                    common.json);
    }
    admin.address = *address;
  }
  admin.stub = v1::AdminService::NewStub(Connect(admin.address));
  return kExitDone;
}

int ReportAdmin(const grpc::Status& status, const Admin& admin, bool as_json) {
  return Report(status, admin.address, as_json, Service::kAdmin);
}

}  // namespace espalier::cli
