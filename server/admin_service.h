#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "engine/engine.h"
#include "espalier/v1/admin.grpc.pb.h"
#include "server/intake.h"

namespace espalier {

// espalier.v1.AdminService. What it is given outlives it.
class AdminService final
    : public v1::AdminService::WithRawCallbackMethod_GetStats<
          v1::AdminService::WithRawCallbackMethod_GetTreeSnapshot<
              v1::AdminService::WithRawCallbackMethod_FlushCache<v1::AdminService::Service>>> {
 public:
  AdminService(Engine& engine, const MethodContext& methods) : engine_(engine), methods_(methods) {}

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetTreeSnapshot(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  Engine& engine_;
  const MethodContext methods_;
};

// Where other services listen: calls of AdminService get an answer that says where, other unknown methods as
// gRPC does.
class AdminElsewhere final : public grpc::CallbackGenericService {
 public:
  // Before it is served; empty: AdminService listens nowhere.
  void SetAdminAddress(std::string address) { address_ = std::move(address); }

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override;

 private:
  std::string address_;
};

}  // namespace espalier
