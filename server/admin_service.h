#pragma once

#include <grpcpp/grpcpp.h>

#include "engine/engine.h"
#include "espalier/v1/admin.grpc.pb.h"

namespace espalier {

// espalier.v1.AdminService. The engine outlives it.
class AdminService final : public v1::AdminService::CallbackService {
 public:
  explicit AdminService(Engine& engine) : engine_(engine) {}

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
};

}  // namespace espalier
