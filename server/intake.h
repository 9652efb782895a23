#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "kernels/base/result.h"
#include "server/message_limits.h"
#include "server/out_of_memory.h"
#include "server/unread_answers.h"
#include "server/unread_message.h"
#include "server/wire.h"
#include "server/worker_pool.h"

namespace espalier {

// What the methods of all services share. It outlives their calls.
struct MethodContext {
  WorkerPool& pool;
  const MessageLimits& limits;
  UnreadAnswers& unread;
};

// Where a call begins: its message is taken from gRPC and worked on by the pool or, if it is small, at once.
// Every reactor of a method is one. The call ends only by Fail or by what Begin starts, so the reactor
// outlives its place in the pool.
class Intake : private WorkerPool::Job {
 protected:
  // `request` belongs to gRPC, which would keep it until the call has ended; it is emptied.
  Intake(const MethodContext& methods, grpc::CallbackServerContext& context, const grpc::ByteBuffer* request);
  virtual ~Intake() = default;

  // Schedules Begin; from the constructor of the final class. `waits`: it may wait for the engine, and never
  // runs here.
  void Start(bool waits = false);
  // From OnCancel: Begin is called no more, or finds cancelled().
  void Cancel();
  const std::atomic<bool>& cancelled() const { return cancelled_; }
  const MethodContext& methods() const { return methods_; }
  grpc::CallbackServerContext& context() { return context_; }
  // Who shares with others as one, see Peer::share.
  const std::string& peer() const { return peer_; }

  void Fail(const Error& error);  // ends the call
  // Of a call that had no event yet: where trying again makes sense, the trailing metadata says when, in the
  // form that gRPC clients with a retry policy heed.
  void SayWhenToRetry(const grpc::Status& status);

  // Reads the message and answers, or has the call answered later. What it returns, and std::bad_alloc, ends
  // the call, so it may not fail once the call has another way to end. When it returns success the reactor
  // may be gone.
  virtual Status Begin(grpc::ByteBuffer& bytes) = 0;
  virtual int64_t RetryAfterMs() const { return methods_.pool.RetryAfterMs(); }
  // Ends the call, with SayWhenToRetry.
  virtual void End(const grpc::Status& status) = 0;

 private:
  void Run() final;

  const MethodContext methods_;
  grpc::CallbackServerContext& context_;
  const std::string peer_;
  grpc::ByteBuffer bytes_;
  std::atomic<bool> cancelled_{false};
};

// A unary method: parses, runs, serialises.
class UnaryCall final : public grpc::ServerUnaryReactor, private Intake {
 public:
  // From the message's bytes to the answer's.
  using Work = std::function<Result<grpc::ByteBuffer>(grpc::ByteBuffer& bytes)>;

  UnaryCall(const MethodContext& methods, grpc::CallbackServerContext& context,
            const grpc::ByteBuffer* request, grpc::ByteBuffer* response, Work work, bool waits)
      : Intake(methods, context, request), response_(response), work_(std::move(work)) {
    Start(waits);
  }

  void OnCancel() override { Cancel(); }
  void OnDone() override { delete this; }

 private:
  Status Begin(grpc::ByteBuffer& bytes) override;
  void End(const grpc::Status& status) override {
    SayWhenToRetry(status);
    Finish(status);
  }

  grpc::ByteBuffer* response_;
  Work work_;
  std::optional<UnreadMessage> unread_;  // a large answer
};

grpc::ServerUnaryReactor* ServeUnary(const MethodContext& methods, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                     UnaryCall::Work work, bool waits);

// Serves one unary method: `handler` is Result<Response>(const Request&). `waits`: it may wait for the
// engine.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* ServeUnary(const MethodContext& methods, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                     Handler handler, bool waits = false) {
  auto work = [&limits = methods.limits,
               handler = std::move(handler)](grpc::ByteBuffer& bytes) -> Result<grpc::ByteBuffer> {
    Request message;
    if (Status status = ParseMessage(bytes, limits, message); !status) return status.error();
    bytes.Clear();
    const auto answer = handler(message);
    if (!answer) return answer.error();
    return SerializeMessage(*answer);
  };
  return ServeUnary(methods, context, request, response, std::move(work), waits);
}

}  // namespace espalier
