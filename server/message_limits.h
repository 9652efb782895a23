#pragma once

#include <google/protobuf/descriptor.h>

#include <cstdint>
#include <limits>
#include <string_view>
#include <unordered_map>

#include "kernels/base/result.h"
#include "server/message_stream.h"

namespace espalier {

// How large the fields of a received message may be. Compared with its encoded form, before it is parsed: an
// element costs two bytes on the wire and a hundred in memory.
class MessageLimits {
 public:
  // Of one message, all its fields together: strings, messages and unknown fields; and numbers in lists.
  static constexpr int64_t kMaxElements = int64_t{1} << 20;
  static constexpr int64_t kMaxNumbers = int64_t{4} << 20;

  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  // Entries of a repeated field.
  void SetMaxCount(const google::protobuf::FieldDescriptor* field, int64_t count) {
    of_field_[field].count = count;
  }
  // Bytes of a string, of each where it is repeated.
  void SetMaxBytes(const google::protobuf::FieldDescriptor* field, int64_t bytes) {
    of_field_[field].bytes = bytes;
  }

  int64_t MaxCount(const google::protobuf::FieldDescriptor* field) const { return Of(field).count; }
  int64_t MaxBytes(const google::protobuf::FieldDescriptor* field) const { return Of(field).bytes; }

 private:
  struct Limit {
    int64_t count = kNone;
    int64_t bytes = kNone;
  };
  Limit Of(const google::protobuf::FieldDescriptor* field) const {
    const auto found = of_field_.find(field);
    return found == of_field_.end() ? Limit() : found->second;
  }

  std::unordered_map<const google::protobuf::FieldDescriptor*, Limit> of_field_;
};

// Walks the encoded form of a message of `type` and compares it with the limits, holding no more of it than
// one string. Errors are kInvalidArgument and name the field as the proto does: `nodes: must be at most
// 65536, has more`; also of the first string that is not UTF-8. Bytes that are no message at all are an error
// without a field. What passes may still not parse. Throws std::bad_alloc.
Status CheckEncoded(MessageStream& stream, const google::protobuf::Descriptor& type,
                    const MessageLimits& limits);

}  // namespace espalier
