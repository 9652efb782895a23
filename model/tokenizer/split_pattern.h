#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// A regular expression that cuts text into words before byte-pair encoding (Split with behaviour Isolated of
// the tokenizers package). Immutable: Split may be called from many threads.
class SplitPattern {
 public:
  // GPT-2's pattern, which ByteLevel applies when use_regex is set.
  static constexpr std::string_view kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  // `pattern` is in the syntax of Oniguruma, the library of the tokenizers package, and is matched by PCRE2.
  // What does not mean the same to both is refused: every escape but \r \n \t \s \S \p{L} \p{N} and escaped
  // punctuation, anchors, sets within sets, groups other than (...) (?:...) (?i:...) (?=...) (?!...), and a
  // pattern that matches the empty text. \p{L}, \p{N} and \s are those of Unicode 16 or later. Errors have a
  // message alone.
  static Result<SplitPattern> Compile(std::string_view pattern);

  // Appends the matches in `text` and what lies between them: all of `text`, in order, no part empty. `text`
  // is valid UTF-8. Error (kInvalidArgument, field "text"): one match would take more steps than grow with
  // the length of the text.
  Status Split(std::string_view text, std::vector<std::string_view>* words) const;

 private:
  struct Code;
  explicit SplitPattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

  std::shared_ptr<const Code> code_;
};

}  // namespace espalier
