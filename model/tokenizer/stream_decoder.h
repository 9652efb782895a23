#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "model/tokenizer/tokenizer.h"

namespace espalier {

// Text of one branch, token by token. Never gives out a part of a character: bytes wait until their character
// is complete. All pieces joined are what Tokenizer::Decode gives for the whole sequence: exactly so for a
// byte-level tokenizer (kBytes tokens), and for others but for two cases: an incomplete last character is one
// U+FFFD here and one per byte there; and a run of byte tokens that is not valid UTF-8 as a whole keeps its
// valid characters here, while the tokenizers package replaces every byte of it.
//
// A small value: copy it where a branch forks. Not thread-safe. The tokenizer must outlive it.
class StreamDecoder {
 public:
  // `at_start`: the first token pushed is the first of its sequence, so the dummy prefix is removed. False
  // for tokens that continue a text, as every generated node does.
  StreamDecoder(const Tokenizer& tokenizer, bool at_start);

  // The text that `id` completes; may be empty. Ids outside the vocabulary are passed over.
  std::string Push(int32_t id);

  // The rest: U+FFFD when a character was left incomplete, else nothing. Tokens pushed later start afresh.
  std::string Finish();

  // The same with one U+FFFD for each byte of that character, as the packages decode a whole sequence.
  std::string FinishBytewise();

 private:
  void PushByte(const TokenInfo& info, std::string* out);
  void PushBytes(const TokenInfo& info, std::string* out);
  // Gives out waiting bytes that form no character, one U+FFFD each.
  void Flush(std::string* out);
  void Append(std::string_view text, bool strippable, std::string* out);

  const Tokenizer* tokenizer_;
  int32_t strips_left_;
  bool is_first_;  // The next token that is not skipped is the first of its sequence.
  bool pending_strippable_ = false;
  uint8_t pending_bytes_ = 0;
  std::array<char, 4> pending_{};
};

}  // namespace espalier
