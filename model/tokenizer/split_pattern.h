#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// A regular expression over text, as pre-tokenizers and normalizers of the tokenizers package use it.
// Immutable: it may be used from many threads.
class SplitPattern {
 public:
  // GPT-2's pattern, which ByteLevel applies when use_regex is set.
  static constexpr std::string_view kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  // `pattern` is in the syntax of Oniguruma, the library of the tokenizers package, and is matched by PCRE2.
  // What does not mean the same to both is refused: every escape but \r \n \t \s \S \d \D \w \W, \p{..} and
  // \P{..} of general categories (but C.., Mn and Mc), and escaped punctuation; \D, \W and \P within a set;
  // sets within sets; groups other than (...) (?:...) (?i:...) (?=...) (?!...); and a pattern that matches
  // the empty text. Characters are those of Unicode 16; ^ and $ are the ends of lines. Errors have a message
  // alone.
  static Result<SplitPattern> Compile(std::string_view pattern);

  // What reads `text`, which is not empty.
  static SplitPattern Literal(std::string_view text);

  // One character of a class as the package's other libraries have it, which differs from what patterns say:
  // kNumeric (Digits) is that of Unicode 17, kPunctuation that of Unicode 8 with all of ASCII's, and kWord \w
  // of Rust's regular expressions.
  enum class Class { kWhiteSpace, kNumeric, kPunctuation, kWord };
  static SplitPattern Of(Class characters);

  // Runs of word characters, and runs of others that are no white space: what Whitespace keeps.
  static SplitPattern Words();

  // A part of a text, and whether it is a match.
  using Visit = std::function<void(std::string_view part, bool is_match)>;

  // Calls `visit` for the matches in `text` and what lies between them: all of `text`, in order, no part
  // empty. `text` is valid UTF-8; ^ and $ see nothing else. Error (kInvalidArgument, field "text"): one match
  // would take more steps than grow with the length of the text.
  Status ForEach(std::string_view text, const Visit& visit) const;

  // Appends those parts.
  Status Split(std::string_view text, std::vector<std::string_view>* words) const;

 private:
  struct Code;
  explicit SplitPattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Result<SplitPattern> CompileTranslated(const std::string& pattern);

  std::shared_ptr<const Code> code_;
};

// Whether `character` (UTF-8) is of Class::kWord.
bool IsWordCharacter(std::string_view character);

}  // namespace espalier
