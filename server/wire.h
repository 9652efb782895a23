#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <google/protobuf/message.h>

#include <string>

#include "kernels/base/result.h"
#include "server/message_limits.h"

namespace espalier {

// The gRPC status of the same name; the message is "field: why".
grpc::Status ToStatus(const Error& error);

// Parses a request from the wire, inflating it if its sender compressed it. gRPC's generated handlers answer
// UNIMPLEMENTED, without a reason, to a message that does not parse, most often for a string that is not
// UTF-8, and bound neither what a message inflates to nor what it holds; so methods are registered raw and
// parse here. Errors are kInvalidArgument and name the field, e.g. `nodes[2].given.text: not valid UTF-8`, or
// kResourceExhausted for a message that inflates to more than kMaxMessageBytes. Refusing takes no more memory
// than the longest string. Throws std::bad_alloc.
Status ParseMessage(grpc::ByteBuffer& bytes, const MessageLimits& limits, google::protobuf::Message& message);

// Precondition: the message is below 2 GiB. Throws std::bad_alloc.
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace espalier
