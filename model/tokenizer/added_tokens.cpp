#include "model/tokenizer/added_tokens.h"

#include <algorithm>

#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

// Whether no word character touches text[begin, end).
bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  size_t before = begin;
  while (before > 0 && (static_cast<uint8_t>(text[--before]) & 0xC0) == 0x80) {
  }
  if (begin > 0 && IsWordCharacter(text.substr(before, begin - before))) return false;
  if (end == text.size()) return true;
  return !IsWordCharacter(text.substr(end, ReadUtf8(text.substr(end)).size_bytes));
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
    if (token.single_word && !StandsAlone(text, match, at)) continue;
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
