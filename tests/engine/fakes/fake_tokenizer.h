#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.h"

namespace espalier::test {

// A small vocabulary made to be awkward: tokens of several characters that overlap each other, bytes of
// characters of two, three and four bytes, bytes that form none, and tokens without text. Decodes only.
// `vocab_size` tokens: what does not fit is left out, what is missing are letters.
std::shared_ptr<const Tokenizer> MakeFakeTokenizer(int32_t vocab_size);

// The text of a branch by the plainest means: after each token, decode all tokens again and look for the stop
// string that begins first.
struct NaiveText {
  std::string text;
  int32_t tokens = 0;  // up to the one that completed a stop string, or all
  bool stopped = false;
};
NaiveText TextOf(const Tokenizer& tokenizer, std::span<const int32_t> token_ids, bool at_start,
                 const std::vector<std::string>& stop_strings);

}  // namespace espalier::test
