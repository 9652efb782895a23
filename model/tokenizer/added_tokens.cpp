#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

// Unicode property White_Space.
bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Start of the white space at the end of `text`.
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

}  // namespace

Status AddedTokenMatcher::Add(const AddedToken& token) {
  if (token.content.empty()) return InvalidArgument("", "an added token is empty");
  uint32_t node = 0;
  for (const char c : token.content) {
    const auto byte = static_cast<uint8_t>(c);
    if (const PairTable::Value* child = edges_.Find(node, byte)) {
      node = child->first;
      continue;
    }
    const auto child = static_cast<uint32_t>(token_of_node_.size());
    token_of_node_.push_back(-1);
    edges_.Set(node, byte, {child, 0});
    node = child;
  }
  if (token_of_node_[node] >= 0) {
    return InvalidArgument("", "added token \"" + token.content + "\" stands twice");
  }
  token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  starts_[static_cast<uint8_t>(token.content[0])] = true;
  tokens_.push_back(token);
  return {};
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  int32_t longest = -1;
  uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const PairTable::Value* child = edges_.Find(node, static_cast<uint8_t>(text[at]));
    if (child == nullptr) break;
    node = child->first;
    if (token_of_node_[node] >= 0) longest = token_of_node_[node];
  }
  return longest;
}

std::vector<TextSection> AddedTokenMatcher::Split(std::string_view text, bool parse_special) const {
  std::vector<TextSection> sections;
  size_t done = 0;  // End of the last section.
  const auto add_text = [&](size_t end) {
    if (done < end) sections.push_back({text.substr(done, end - done), done, -1});
  };
  size_t at = 0;
  while (at < text.size()) {
    const int32_t found = starts_[static_cast<uint8_t>(text[at])] ? LongestAt(text, at) : -1;
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    const size_t match = at;
    at += token.content.size();
    if (token.special && !parse_special) continue;
    const size_t start = token.left_strip ? std::max(TrailingSpaceStart(text.substr(0, match)), done) : match;
    const size_t stop = token.right_strip ? at + LeadingSpaceBytes(text.substr(at)) : at;
    add_text(start);
    sections.push_back({{}, start, token.id});
    done = stop;
  }
  add_text(text.size());
  return sections;
}

}  // namespace espalier
