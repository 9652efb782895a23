#include "server/message_limits.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 100;  // the parser's own
constexpr int kMaxFields = 32;  // of one message type

bool IsPacked(const FieldDescriptor& field, uint32_t wire_type) {
  return field.is_packable() && wire_type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
}

// What the parser puts into this field; anything else with its number is kept as unknown.
bool Fits(const FieldDescriptor& field, uint32_t wire_type) {
  const auto type = static_cast<WireFormatLite::FieldType>(field.type());
  return IsPacked(field, wire_type) || WireFormatLite::WireTypeForFieldType(type) == wire_type;
}

class Walk {
 public:
  Walk(MessageStream& stream, const MessageLimits& limits) : in_(&stream), limits_(limits) {}

  // False: error() says what a field has too much of; without one, the bytes are no message.
  bool Message(const Descriptor& type) { return Fields(&type, 0, 0); }
  std::optional<Error>& error() { return error_; }

 private:
  // The fields of a message, or of an unknown group (no type), which ends with the tag `end`.
  bool Fields(const Descriptor* type, uint32_t end, int depth) {
    if (depth > kMaxDepth) return false;
    ESPALIER_CHECK(type == nullptr || type->field_count() <= kMaxFields);
    std::array<int64_t, kMaxFields> counts{};  // of each repeated field so far
    while (const uint32_t tag = in_.ReadTag()) {
      if (WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_END_GROUP) return tag == end;
      const FieldDescriptor* field =
          type == nullptr ? nullptr : type->FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      if (field == nullptr || !Fits(*field, WireFormatLite::GetTagWireType(tag))) {
        if (!Unknown(tag, depth)) return false;
      } else if (!Known(*field, tag, counts[static_cast<size_t>(field->index())], depth)) {
        return false;
      }
    }
    return end == 0 && in_.ConsumedEntireMessage();
  }

  bool Unknown(uint32_t tag, int depth) {
    if (WireFormatLite::GetTagFieldNumber(tag) == 0) return false;
    if (++elements_ > MessageLimits::kMaxElements) return TooManyElements();
    const uint32_t group = WireFormatLite::WIRETYPE_START_GROUP;
    if (WireFormatLite::GetTagWireType(tag) != group) return SkipValue(tag);
    const uint32_t end = tag - group + WireFormatLite::WIRETYPE_END_GROUP;
    return Fields(nullptr, end, depth + 1);
  }

  bool SkipValue(uint32_t tag) {
    uint64_t number = 0;
    int length = 0;
    switch (WireFormatLite::GetTagWireType(tag)) {
      case WireFormatLite::WIRETYPE_VARINT:
        return in_.ReadVarint64(&number);
      case WireFormatLite::WIRETYPE_FIXED64:
        return in_.Skip(8);
      case WireFormatLite::WIRETYPE_FIXED32:
        return in_.Skip(4);
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return ReadLength(&length) && in_.Skip(length);
      default:
        return false;
    }
  }

  bool ReadLength(int* length) {
    uint32_t value = 0;
    if (!in_.ReadVarint32(&value)) return false;
    if (value > static_cast<uint32_t>(kMaxMessageBytes)) {
      in_.Skip(
          std::numeric_limits<int>::max());  // the stream finds that it is too large, or shorter than this
      return false;
    }
    *length = static_cast<int>(value);
    return true;
  }

  bool Known(const FieldDescriptor& field, uint32_t tag, int64_t& count, int depth) {
    const bool is_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!is_text && !is_message) return Numbers(field, tag, count);
    int length = 0;
    if (!ReadLength(&length)) return false;
    if (++elements_ > MessageLimits::kMaxElements) return TooManyElements() || In(field, count);
    if (field.is_repeated() && ++count > limits_.MaxCount(&field)) return TooMany(field);
    if (is_text ? Text(field, length) : Inner(field, length, depth)) return true;
    return In(field, count - 1);
  }

  bool Inner(const FieldDescriptor& field, int length, int depth) {
    const CodedInputStream::Limit limit = in_.PushLimit(length);
    const bool sound = Fields(field.message_type(), 0, depth + 1);
    in_.PopLimit(limit);
    return sound;
  }

  bool Text(const FieldDescriptor& field, int length) {
    if (length > limits_.MaxBytes(&field)) {
      return Refuse("must have at most " + std::to_string(limits_.MaxBytes(&field)) + " bytes, has " +
                    std::to_string(length));
    }
    if (field.type() != FieldDescriptor::TYPE_STRING) return in_.Skip(length);
    const void* data = nullptr;
    int size = 0;
    if (length == 0) return true;
    if (in_.GetDirectBufferPointer(&data, &size) && size >= length) {
      const std::string_view text(static_cast<const char*>(data), static_cast<size_t>(length));
      if (FindInvalidUtf8(text) != std::string_view::npos) return Refuse("not valid UTF-8");
      return in_.Skip(length);
    }
    if (!in_.ReadString(&text_, length)) return false;
    return FindInvalidUtf8(text_) == std::string_view::npos || Refuse("not valid UTF-8");
  }

  // One number, or a packed list of them.
  bool Numbers(const FieldDescriptor& field, uint32_t tag, int64_t& count) {
    const uint32_t wire_type = WireFormatLite::GetTagWireType(tag);
    int64_t added = 1;
    if (!IsPacked(field, wire_type)) {
      if (!SkipValue(tag)) return false;
    } else if (!SkipPacked(field, &added)) {
      return false;
    }
    if (!field.is_repeated()) return true;
    count += added;
    numbers_ += added;
    if (count > limits_.MaxCount(&field)) return TooMany(field);
    if (numbers_ <= MessageLimits::kMaxNumbers) return true;
    Refuse("the message holds more than " + std::to_string(MessageLimits::kMaxNumbers) + " numbers in all");
    return In(field);
  }

  bool SkipPacked(const FieldDescriptor& field, int64_t* entries) {
    int length = 0;
    if (!ReadLength(&length)) return false;
    const auto entry =
        WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
    if (entry != WireFormatLite::WIRETYPE_VARINT) {
      *entries = length / (entry == WireFormatLite::WIRETYPE_FIXED64 ? 8 : 4);
      return in_.Skip(length);
    }
    *entries = 0;
    while (length > 0) {
      const void* data = nullptr;
      int size = 0;
      if (!in_.GetDirectBufferPointer(&data, &size)) return false;
      const int used = std::min(size, length);
      const auto* bytes = static_cast<const uint8_t*>(data);
      *entries += std::count_if(bytes, bytes + used, [](uint8_t byte) { return byte < 0x80; });
      in_.Skip(used);
      length -= used;
    }
    return true;
  }

  bool Refuse(std::string why) {
    error_ = InvalidArgument("", std::move(why));
    return false;
  }
  bool TooMany(const FieldDescriptor& field) {
    Refuse("must be at most " + std::to_string(limits_.MaxCount(&field)) + ", has more");
    return In(field);
  }
  bool TooManyElements() {
    return Refuse("the message holds more than " + std::to_string(MessageLimits::kMaxElements) +
                  " strings and messages in all");
  }
  // Puts the field, and which of its entries, before the error's own.
  bool In(const FieldDescriptor& field, int64_t index = -1) {
    if (!error_) return false;
    std::string path = field.name();
    if (field.is_repeated() && index >= 0) path += "[" + std::to_string(index) + "]";
    error_->field = error_->field.empty() ? path : path + "." + error_->field;
    return false;
  }

  CodedInputStream in_;
  const MessageLimits& limits_;
  int64_t elements_ = 0;
  int64_t numbers_ = 0;
  std::string text_;
  std::optional<Error> error_;
};

}  // namespace

Status CheckEncoded(MessageStream& stream, const Descriptor& type, const MessageLimits& limits) {
  Walk walk(stream, limits);
  if (walk.Message(type)) return {};
  if (walk.error()) return *std::move(walk.error());
  return InvalidArgument("", "the request is not an encoded " + type.full_name());
}

}  // namespace espalier
