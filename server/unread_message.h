#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "kernels/base/mutex.h"
#include "server/unread_answers.h"

namespace espalier {

// The answer of a unary call from its end until gRPC has let go of it: all of it waits for its reader.
class UnreadMessage {
 public:
  UnreadMessage(UnreadAnswers& unread, const std::string& peer, grpc::CallbackServerContext& context);
  ~UnreadMessage();  // before the call's context
  UnreadMessage(const UnreadMessage&) = delete;
  UnreadMessage& operator=(const UnreadMessage&) = delete;

  void Add(const grpc::ByteBuffer& message) { answer_->Add(static_cast<int64_t>(message.Length())); }

 private:
  struct Call {
    explicit Call(grpc::CallbackServerContext& of) : context(&of) {}
    Mutex mutex;
    grpc::CallbackServerContext* context ESPALIER_GUARDED_BY(mutex);
  };

  const std::shared_ptr<Call> call_;
  std::unique_ptr<UnreadAnswers::Answer> answer_;
};

}  // namespace espalier
