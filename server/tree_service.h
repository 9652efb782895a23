#pragma once

#include <grpcpp/grpcpp.h>

#include "engine/engine.h"
#include "espalier/v1/tree.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "server/intake.h"
#include "server/writer_pool.h"

namespace espalier {

// espalier.v1.TreeService. A call's events come from the engine's thread and leave through those of the
// writer pool and of gRPC; none waits for another, see GenerateQueue.
class TreeService final : public v1::TreeService::WithRawCallbackMethod_Generate<
                              v1::TreeService::WithRawCallbackMethod_Score<v1::TreeService::Service>> {
 public:
  // What it is given outlives the service; the engine has been drained before this is destroyed.
  TreeService(Engine& engine, const Tokenizer& tokenizer, const MethodContext& methods)
      : engine_(engine), tokenizer_(tokenizer), methods_(methods) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;

 private:
  Engine& engine_;
  const Tokenizer& tokenizer_;
  const MethodContext methods_;
  WriterPool writer_pool_;
};

}  // namespace espalier
