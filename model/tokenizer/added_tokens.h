#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/pair_table.h"

namespace espalier {

// Ids that no token has may lie between those of tokens; more of them than this are an error of the file.
inline constexpr size_t kMaxUnusedIds = size_t{1} << 16;

// A token that is found in the text before the model splits the rest.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;
  bool normalized = false;  // Matched in the normalised text, in its own normalised form.
  bool left_strip = false;  // Takes the white space on its left (right) with it.
  bool right_strip = false;
  bool single_word = false;  // Not found where a word character stands right before or after it.
};

// A piece of text, or an added token in its place.
struct TextSection {
  std::string_view text;
  size_t offset = 0;  // Of `text` in the whole, in bytes.
  int32_t id = -1;    // -1: text.
};

// Finds added tokens in a text: leftmost first, the longest of those that start at one place. Immutable after
// Add.
class AddedTokenMatcher {
 public:
  // Error: two tokens with the same `content`, or an empty one.
  Status Add(const AddedToken& token);

  // `text` in sections, empty ones left out. A special token that is found while `parse_special` is false
  // stays text; no other token is looked for inside it.
  std::vector<TextSection> Split(std::string_view text, bool parse_special) const;

 private:
  // Index into tokens_ of the longest token that starts at text[at]; -1: none.
  int32_t LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> token_of_node_{-1};  // Byte trie, node 0 is its root.
  PairTable edges_;                         // (node, byte) -> child
  std::array<bool, 256> starts_{};          // Bytes that start a token.
};

}  // namespace espalier
