#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "engine/engine.h"
#include "espalier/v1/tree.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "server/outbox.h"
#include "server/unread_answers.h"

namespace espalier {

// espalier.v1.TreeService. A call's events come from the engine's thread and leave through those of the
// outbox and of gRPC; none waits for another, see GenerateQueue.
class TreeService final : public v1::TreeService::WithRawCallbackMethod_Generate<
                              v1::TreeService::WithRawCallbackMethod_Score<v1::TreeService::Service>> {
 public:
  // Both outlive the service; the engine has been drained before this is destroyed.
  TreeService(Engine& engine, const Tokenizer& tokenizer, int64_t max_unread_bytes)
      : engine_(engine), tokenizer_(tokenizer), unread_(std::make_shared<UnreadAnswers>(max_unread_bytes)) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;

  int64_t unread_bytes() const { return unread_->bytes(); }

 private:
  Engine& engine_;
  const Tokenizer& tokenizer_;
  const std::shared_ptr<UnreadAnswers> unread_;
  Outbox outbox_;
};

}  // namespace espalier
