#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// Metaspace of a decoder: `mark` reads as a space, and as nothing in the first token if `drops_first`.
struct MarkToSpaceStep {
  std::string mark;  // One character.
  bool drops_first;
};

// Takes up to `count` times `content`, one character, from the start of a token.
struct StripStartStep {
  std::string content;
  int32_t count;
};

// The decoder of a tokenizer.json, as far as the text of a stream can follow it: steps that see one token at
// a time, then ByteFallback or ByteLevel, which join bytes, then Fuse and what is taken from the start of the
// whole text. Immutable.
class TokenDecoder {
 public:
  // `field`: the decoder, a step or a Sequence; nullopt: none, tokens stand apart with a space between them.
  // Refuses by name what would not be exact in a stream.
  static Result<TokenDecoder> Read(const std::optional<JsonField>& field);

  // How a token that `form` stands for reads; `is_first`: as the first one of a sequence. kText, kByte or
  // kBytes.
  Result<TokenInfo> Info(std::string_view form, bool is_first) const;
  // Whether a token may read otherwise where it is the first.
  bool FirstDiffers() const;
  const LeadingStrip& leading_strip() const { return leading_strip_; }

 private:
  using Step = std::variant<ReplaceStep, ReplacePatternStep, MarkToSpaceStep, StripStartStep>;
  enum class Joining { kTexts, kByteFallback, kByteLevel, kSpaced };

  std::vector<Step> steps_;
  Joining joining_ = Joining::kTexts;
  LeadingStrip leading_strip_;
};

}  // namespace espalier
