#include "model/tokenizer/utf8.h"

#include "kernels/base/result.h"

namespace espalier {
namespace {

// What may follow a lead byte: sequence length and the range of the second byte.
struct Lead {
  uint8_t size_bytes;  // 0: not a lead byte.
  uint8_t second_min;
  uint8_t second_max;
};

Lead Classify(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};  // No overlong forms.
  if (lead == 0xED) return {3, 0x80, 0x9F};  // No surrogates.
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};  // Nothing above U+10FFFF.
  return {0, 0, 0};
}

// Unicode property White_Space.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace

Utf8Char ReadUtf8(std::string_view bytes) {
  const auto lead_byte = static_cast<uint8_t>(bytes[0]);
  const Lead lead = Classify(lead_byte);
  if (lead.size_bytes == 0) return {};
  if (lead.size_bytes == 1) return {Utf8Char::State::kValid, 1, lead_byte};
  char32_t code_point = lead_byte & (0x7Fu >> lead.size_bytes);
  for (size_t i = 1; i < lead.size_bytes; ++i) {
    if (i == bytes.size()) return {Utf8Char::State::kIncomplete, 0, 0};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) return {};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Char::State::kValid, lead.size_bytes, code_point};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    if (static_cast<uint8_t>(text[offset]) < 0x80) {
      ++offset;
      continue;
    }
    const Utf8Char c = ReadUtf8(text.substr(offset));
    if (c.state != Utf8Char::State::kValid) return offset;
    offset += c.size_bytes;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(static_cast<uint8_t>(byte))); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

void AppendLossy(std::string_view bytes, std::string* out) {
  while (!bytes.empty()) {
    const Utf8Char c = ReadUtf8(bytes);
    const bool valid = c.state == Utf8Char::State::kValid;
    out->append(valid ? bytes.substr(0, c.size_bytes) : kReplacementCharacter);
    bytes.remove_prefix(valid ? c.size_bytes : 1);
  }
}

void AppendLossyByRun(std::string_view bytes, std::string* out) {
  while (!bytes.empty()) {
    const Utf8Char c = ReadUtf8(bytes);
    const bool valid = c.state == Utf8Char::State::kValid;
    size_t used = valid ? c.size_bytes : 1;
    while (!valid && used < bytes.size() &&
           ReadUtf8(bytes.substr(0, used + 1)).state == Utf8Char::State::kIncomplete) {
      ++used;
    }
    out->append(valid ? bytes.substr(0, used) : kReplacementCharacter);
    bytes.remove_prefix(used);
  }
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  ESPALIER_CHECK(!from.empty());
  std::string out;
  out.reserve(text.size());
  while (true) {
    const size_t at = text.find(from);
    out.append(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    out.append(to);
    text.remove_prefix(at + from.size());
  }
}

size_t TrailingSpaceStart(std::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    size_t at = start - 1;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    if (!IsWhiteSpace(ReadUtf8(text.substr(at)).code_point)) break;
    start = at;
  }
  return start;
}

size_t LeadingSpaceBytes(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Char c = ReadUtf8(text.substr(end));
    if (!IsWhiteSpace(c.code_point)) break;
    end += c.size_bytes;
  }
  return end;
}

}  // namespace espalier
