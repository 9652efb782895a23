#include "server/wire.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <map>
#include <optional>
#include <vector>

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 64;

std::string ToText(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!bytes.Dump(&slices).ok()) return text;
  text.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text;
}

// Walks an encoded message and returns the path of the first string field that is not UTF-8.
std::optional<std::string> FindInvalidText(std::string_view encoded, const Descriptor& type, int depth) {
  if (depth > kMaxDepth) return std::nullopt;
  CodedInputStream in(reinterpret_cast<const uint8_t*>(encoded.data()), static_cast<int>(encoded.size()));
  std::map<int, int> seen;  // occurrences of each field number so far
  while (const uint32_t tag = in.ReadTag()) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const bool is_delimited =
        WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
    if (field == nullptr || !is_delimited) {
      if (!WireFormatLite::SkipField(&in, tag)) return std::nullopt;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return std::nullopt;
    const int begin = in.CurrentPosition();
    if (!in.Skip(static_cast<int>(length))) return std::nullopt;
    const std::string_view content = encoded.substr(static_cast<size_t>(begin), length);
    std::string path = field->name();
    if (field->is_repeated()) path += "[" + std::to_string(seen[field->number()]++) + "]";
    if (field->type() == FieldDescriptor::TYPE_STRING && FindInvalidUtf8(content) != std::string_view::npos)
      return path;
    if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (auto inner = FindInvalidText(content, *field->message_type(), depth + 1))
        return path + "." + *inner;
    }
  }
  return std::nullopt;
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
    case ErrorCode::kDeadlineExceeded:
      code = grpc::StatusCode::DEADLINE_EXCEEDED;
      break;
    case ErrorCode::kNotFound:
      code = grpc::StatusCode::NOT_FOUND;
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

Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  const std::string encoded = ToText(bytes);
  if (message.ParseFromString(encoded)) return {};
  if (auto path = FindInvalidText(encoded, *message.GetDescriptor(), 0)) {
    return InvalidArgument(*path, "not valid UTF-8");
  }
  return InvalidArgument("", "the request is not an encoded " + message.GetDescriptor()->full_name());
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  std::string encoded = message.SerializeAsString();
  const grpc::Slice slice(encoded);
  return {&slice, 1};
}

}  // namespace espalier
