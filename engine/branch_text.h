#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// What one more token added to the text of a branch.
struct TextPiece {
  std::string text;                // whole characters; no part of a stop string
  bool stop_string_found = false;  // the text of the branch ends here, before the stop string
};

// The text of one branch, token by token. Holds back half characters, and text that may turn out to be the
// beginning of a stop string. A stop string is found with the token that completes it; where that token
// completes several, the text ends before the one that begins first. A stop string lies wholly within one
// branch.
//
// A value: copy it where a branch forks. Not thread-safe.
class BranchText {
 public:
  // No tokenizer, no text.
  BranchText() = default;

  // `at_start`: the branch's first token is the first of its sequence (the root). Every stop string is valid
  // UTF-8 and not empty; null: none. The tokenizer must outlive this.
  BranchText(const Tokenizer& tokenizer, bool at_start,
             std::shared_ptr<const std::vector<std::string>> stop_strings);

  // Precondition: no stop string found and not finished. A token that ended its branch as a stop token has no
  // place in the text: do not pass it.
  TextPiece Append(int32_t token_id);

  // The branch ends here for another reason: the text still held back. An incomplete character becomes
  // U+FFFD. Nothing after a stop string was found.
  std::string Finish();

 private:
  std::optional<StreamDecoder> decoder_;
  std::shared_ptr<const std::vector<std::string>> stop_strings_;
  std::string held_;  // a proper prefix of some stop string
  bool ended_ = false;
};

}  // namespace espalier
