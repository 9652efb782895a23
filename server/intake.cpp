#include "server/intake.h"

#include <new>
#include <string>
#include <utility>

#include "server/peer.h"

namespace espalier {
namespace {

// Up to this size a message is worked on where it arrives: texts of so many bytes are encoded in less than a
// millisecond.
constexpr size_t kMaxBytesAtOnce = 1024;

// Smaller answers are not worth counting.
constexpr size_t kMaxUncountedAnswerBytes = 16 << 10;

// What a waiting call takes besides its message.
constexpr int64_t kBytesOfCall = 16 << 10;

}  // namespace

// gRPC hands out its own buffer as const, although it is none.
Intake::Intake(const MethodContext& methods, grpc::CallbackServerContext& context,
               const grpc::ByteBuffer* request)
    : methods_(methods), context_(context), peer_(PeerOfCall(context.peer()).share) {
  bytes_.Swap(const_cast<grpc::ByteBuffer*>(request));
}

void Intake::Start(bool waits) {
  if (!waits && bytes_.Length() <= kMaxBytesAtOnce && !IsCompressed(bytes_)) return Run();
  const auto bytes = static_cast<int64_t>(bytes_.Length());
  const Status added = CatchOutOfMemory([&]() -> Status {
    if (methods_.pool.Add(peer_, bytes + kBytesOfCall, this)) return {};
    return Error{
        ErrorCode::kResourceExhausted, "",
        "too many messages wait: try again in about " + std::to_string(methods_.pool.RetryAfterMs()) + " ms"};
  });
  if (!added) Fail(added.error());
}

void Intake::Cancel() {
  cancelled_.store(true);
  if (methods_.pool.Remove(this)) End({grpc::StatusCode::CANCELLED, "cancelled"});
}

void Intake::Run() {
  const Status begun = CatchOutOfMemory([&]() -> Status {
    if (cancelled_.load()) return Error{ErrorCode::kCancelled, "", "cancelled"};
    return Begin(bytes_);
  });
  if (!begun) Fail(begun.error());
}

void Intake::Fail(const Error& error) {
  grpc::Status status(grpc::StatusCode::RESOURCE_EXHAUSTED, OutOfMemory().message);
  try {
    status = ToStatus(error);
  } catch (const std::bad_alloc&) {  // the status above says so
  }
  End(status);
}

void Intake::SayWhenToRetry(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) return;
  try {
    context_.AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(RetryAfterMs()));
  } catch (const std::bad_alloc&) {  // no memory for a hint
  }
}

Status UnaryCall::Begin(grpc::ByteBuffer& bytes) {
  Result<grpc::ByteBuffer> answer = work_(bytes);
  if (!answer) return answer.error();
  if (answer->Length() > kMaxUncountedAnswerBytes) {
    unread_.emplace(methods().unread, peer(), context());
    unread_->Add(*answer);
  }
  response_->Swap(&*answer);
  Finish(grpc::Status::OK);
  return {};
}

grpc::ServerUnaryReactor* ServeUnary(const MethodContext& methods, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response,
                                     UnaryCall::Work work, bool waits) {
  try {
    return new UnaryCall(methods, *context, request, response, std::move(work), waits);
  } catch (const std::bad_alloc&) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();  // which is there already
    reactor->Finish(ToStatus(OutOfMemory()));
    return reactor;
  }
}

}  // namespace espalier
