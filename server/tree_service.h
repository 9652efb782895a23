#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "engine/engine.h"
#include "espalier/v1/tree.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// espalier.v1.TreeService. A call's events come from the engine's thread and leave through gRPC's; neither
// waits for the other. While a reader is slow its deltas are merged into one, so that what waits for it is at
// most its own answer.
class TreeService final : public v1::TreeService::WithRawCallbackMethod_Generate<
                              v1::TreeService::WithRawCallbackMethod_Score<v1::TreeService::Service>> {
 public:
  // Both outlive the service.
  TreeService(Engine& engine, const Tokenizer& tokenizer) : engine_(engine), tokenizer_(tokenizer) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;

 private:
  Engine& engine_;
  const Tokenizer& tokenizer_;
};

}  // namespace espalier
