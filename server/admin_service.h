#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "engine/engine.h"
#include "espalier/v1/admin.grpc.pb.h"
#include "server/tree_service.h"

namespace espalier {

// espalier.v1.AdminService. Engine and TreeService outlive it.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  AdminService(Engine& engine, const TreeService& trees) : engine_(engine), trees_(trees) {}

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context, const v1::GetStatsRequest* request,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerUnaryReactor* GetTreeSnapshot(grpc::CallbackServerContext* context,
                                            const v1::GetTreeSnapshotRequest* request,
                                            v1::GetTreeSnapshotResponse* response) override;
  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context,
                                       const v1::FlushCacheRequest* request,
                                       v1::FlushCacheResponse* response) override;

 private:
  Engine& engine_;
  const TreeService& trees_;
};

// Where other services listen: calls of AdminService are told where that is, other unknown methods as gRPC
// does.
class AdminElsewhere final : public grpc::CallbackGenericService {
 public:
  // Before it is served; empty: AdminService listens nowhere.
  void SetAdminAddress(std::string address) { address_ = std::move(address); }

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override;

 private:
  std::string address_;
};

}  // namespace espalier
