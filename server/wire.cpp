#include "server/wire.h"

#include <memory>
#include <string>

#include "server/message_stream.h"

namespace espalier {
namespace {

Status CheckState(MessageStream::State state) {
  switch (state) {
    case MessageStream::State::kSound:
      return {};
    case MessageStream::State::kTooLarge:
      return Error{ErrorCode::kResourceExhausted, "",
                   "the message has more than " + std::to_string(kMaxMessageBytes) + " bytes when inflated"};
    case MessageStream::State::kDamaged:
      return InvalidArgument("", "the compressed message is damaged");
    case MessageStream::State::kUnsupported:
      return Error{ErrorCode::kUnimplemented, "", "messages may be compressed with gzip or deflate only"};
  }
  return {};
}

}  // namespace

grpc::Status ToStatus(const Error& error) {
  auto code = grpc::StatusCode::INTERNAL;
  switch (error.code) {
    case ErrorCode::kCancelled:
      code = grpc::StatusCode::CANCELLED;
      break;
    case ErrorCode::kInvalidArgument:
      code = grpc::StatusCode::INVALID_ARGUMENT;
      break;
    case ErrorCode::kResourceExhausted:
      code = grpc::StatusCode::RESOURCE_EXHAUSTED;
      break;
    case ErrorCode::kFailedPrecondition:
      code = grpc::StatusCode::FAILED_PRECONDITION;
      break;
    case ErrorCode::kUnimplemented:
      code = grpc::StatusCode::UNIMPLEMENTED;
      break;
    case ErrorCode::kInternal:
      code = grpc::StatusCode::INTERNAL;
      break;
    case ErrorCode::kUnavailable:
      code = grpc::StatusCode::UNAVAILABLE;
      break;
  }
  return {code, error.ToString()};
}

Status ParseMessage(grpc::ByteBuffer& bytes, const MessageLimits& limits,
                    google::protobuf::Message& message) {
  std::unique_ptr<MessageStream> stream = MessageStream::Open(bytes);
  const Status checked = CheckEncoded(*stream, *message.GetDescriptor(), limits);
  if (Status sound = CheckState(stream->state()); !sound) return sound;
  if (!checked) return checked;
  stream = MessageStream::Open(bytes);
  if (message.ParseFromZeroCopyStream(stream.get())) return {};
  return InvalidArgument("", "the request is not an encoded " + message.GetDescriptor()->full_name());
}

// gRPC's own slices end the process where there is no memory.
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  auto encoded = std::make_unique<std::string>(message.SerializeAsString());
  const auto destroy = [](void* text) { delete static_cast<std::string*>(text); };
  const grpc::Slice slice(encoded->data(), encoded->size(), destroy, encoded.get());
  encoded.release();  // it belongs to the slice
  return {&slice, 1};
}

}  // namespace espalier
