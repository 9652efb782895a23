#pragma once

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <google/protobuf/message.h>

#include <string>

#include "kernels/base/result.h"

namespace espalier {

// The gRPC status of the same name; the message is "field: why".
grpc::Status ToStatus(const Error& error);

// Parses a request from the wire. gRPC's generated handlers answer UNIMPLEMENTED, without a word, to a
// message that does not parse, most often for a string that is not UTF-8; so methods are registered raw and
// parse here. Errors are kInvalidArgument and name the field, e.g. `nodes[2].given.text: not valid UTF-8`.
Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);

// Precondition: the message is below 2 GiB.
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

}  // namespace espalier
