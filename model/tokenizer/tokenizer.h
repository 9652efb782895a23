#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// Text in a tree: only the text at the root of a tree stands at the start of a sequence. Everything below it
// continues some text, and is encoded without a dummy prefix (the space that SentencePiece puts before the
// first word) and without a beginning-of-sequence token.
struct EncodeOptions {
  // The text starts its sequence: the tokenizer's dummy prefix applies, if it has one. When false the text is
  // encoded exactly as by the same tokenizer with its dummy prefix switched off; other whitespace rules (a
  // SentencePiece model's remove_extra_whitespaces, for example) hold either way.
  bool at_start = true;
  // Puts bos_id() first.
  bool add_bos = false;
  // Recognises special tokens (such as "</s>") written in the text. Otherwise they are encoded like any other
  // text, so that text from outside cannot end a sequence.
  bool parse_special = false;
};

// What one token is and how it reads in a stream of text.
struct TokenInfo {
  enum class Kind : uint8_t {
    kText,    // `text` as it stands; may be empty.
    kByte,    // One byte, text[0], of a character that neighbouring byte tokens complete.
    kBytes,   // Any number of bytes: whole characters and parts that neighbouring kBytes tokens complete.
              // What stays incomplete is one U+FFFD, not one for each byte (AppendLossyByRun of utf8.h). A
              // tokenizer with such tokens has no kByte tokens.
    kSkipped  // Nothing, as if it were not there: bytes on both sides of it may form one character.
  };
  std::string piece;  // Form in the vocabulary: "▁ok", "<0x0A>", "</s>".
  std::string text;   // UTF-8, but for kByte and kBytes.
  Kind kind = Kind::kText;
  bool special = false;     // A control token: no text of its own, and parsed only with parse_special.
  bool strippable = false;  // LeadingStrip may remove the start of `text`.
};

// What decoding removes at the start of a sequence, undoing the dummy prefix: up to `count` times `content`,
// until the first text comes out.
struct LeadingStrip {
  int32_t count = 0;
  bool once_per_token = false;
  std::string content = " ";
};

// Everything that is known of a vocabulary without encoding anything.
struct TokenTable {
  std::vector<TokenInfo> tokens;  // [vocab_size]
  // Tokens that read otherwise where they are the first of a sequence that are not skipped.
  std::unordered_map<int32_t, TokenInfo> first_tokens;
  LeadingStrip leading_strip;
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unk_id = -1;
  bool add_bos_by_default = false;
};

// Text to token ids and back. Immutable once loaded: all methods may be called from many threads.
class Tokenizer {
 public:
  // Longest text that Encode takes: 64 MiB.
  static constexpr size_t kMaxTextBytes = size_t{64} << 20;

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Number of ids, added tokens included. An id in [0, vocab_size()) that no token has is skipped and has an
  // empty piece.
  int32_t vocab_size() const { return static_cast<int32_t>(table_.tokens.size()); }
  // Ids of the beginning and the end of a sequence and of unknown text; -1 where there is none. Where a
  // model's texts end is not asked here: as in transformers, generation_config.json or config.json name those
  // ids, and the tokenizer's eos_token is not added to them.
  int32_t bos_id() const { return table_.bos_id; }
  int32_t eos_id() const { return table_.eos_id; }
  int32_t unk_id() const { return table_.unk_id; }
  // Whether this tokenizer's own files ask for a beginning-of-sequence token before a prompt.
  bool add_bos_by_default() const { return table_.add_bos_by_default; }

  bool IsValid(int32_t id) const { return id >= 0 && id < vocab_size(); }
  // The next three: precondition IsValid(id).
  bool IsSpecial(int32_t id) const { return Info(id).special; }
  const std::string& Piece(int32_t id) const { return Info(id).piece; }
  const TokenInfo& Info(int32_t id) const {
    ESPALIER_CHECK(IsValid(id));
    return table_.tokens[static_cast<size_t>(id)];
  }
  // `id` as the first token of a sequence. Precondition: IsValid(id).
  const TokenInfo& FirstInfo(int32_t id) const {
    const auto it = table_.first_tokens.find(id);
    return it == table_.first_tokens.end() ? Info(id) : it->second;
  }
  std::optional<int32_t> PieceToId(std::string_view piece) const;
  const LeadingStrip& leading_strip() const { return table_.leading_strip; }
  // The most bytes of text that one token stands for: a text of n bytes has at least n / this many tokens,
  // unless the tokenizer drops or folds some of it (extra spaces, runs of unknown characters, normalisation).
  size_t longest_token_bytes() const { return longest_token_bytes_; }

  // `text` is UTF-8. Time grows as n log n at most. Errors (kInvalidArgument): field "text" for invalid UTF-8
  // and for text over kMaxTextBytes, field "add_bos" when there is no such token.
  Result<std::vector<int32_t>> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Text of a whole sequence, as the sentencepiece and tokenizers packages give it: the dummy prefix is
  // removed, special tokens have no text, bytes that form no character become U+FFFD. Ids outside the
  // vocabulary are passed over. For a part of a sequence see DecodeContinuation and StreamDecoder.
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;

  // Text of tokens that continue a sequence: nothing is removed at their start.
  std::string DecodeContinuation(std::span<const int32_t> ids) const;

 protected:
  explicit Tokenizer(TokenTable table);

  // Appends the ids of `text`, which is valid UTF-8 of at most kMaxTextBytes.
  virtual Status EncodeText(std::string_view text, const EncodeOptions& options,
                            std::vector<int32_t>* ids) const = 0;

 private:
  TokenTable table_;
  size_t longest_token_bytes_ = 1;
  std::unordered_map<std::string_view, int32_t> piece_to_id_;  // Views into table_.
};

// Loads the tokenizer of a Hugging Face folder: tokenizer.model (SentencePiece) if it is there, else
// tokenizer.json (BPE of any kind); or the file itself: *.json is read as tokenizer.json, anything else as
// tokenizer.model. Files next to it are used where they exist (tokenizer_config.h): tokenizer_config.json,
// special_tokens_map.json, added_tokens.json, and for a tokenizer.model the added tokens of tokenizer.json.
// Errors name the file (field) and what in it is missing, damaged, contradicted by another file or not
// supported.
// Tokens that the other files add with an id of `id_limit` or more are left out: a model with that many ids
// cannot read them.
Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::filesystem::path& folder_or_file,
                                                 int32_t id_limit = std::numeric_limits<int32_t>::max());

}  // namespace espalier
