#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/split_pattern.h"

namespace espalier {

// What becomes of the matches of a pattern where text is cut at them.
enum class SplitBehavior : uint8_t {
  kRemoved,
  kIsolated,            // Each match is a word.
  kMergedWithPrevious,  // It ends the word before it, unless that is a match as well.
  kMergedWithNext,      // It begins the word after it, likewise.
  kContiguous,          // Matches that follow one another are one word.
};

// Split, Digits, Punctuation, Whitespace, WhitespaceSplit and CharDelimiterSplit: words are cut at matches,
// or with `invert` at what lies between them.
struct SplitStep {
  SplitPattern pattern;
  SplitBehavior behavior;
  bool invert;
};

// Spaces become `replacement`, and words start at it.
struct MetaspaceStep {
  enum class Prepend : uint8_t { kAlways, kFirst, kNever };
  std::string replacement;  // One character.
  Prepend prepend;
  bool split;
};

// Words, cut further by `split` if there is one, are written in byte characters (byte_level.h).
struct ByteLevelStep {
  bool add_prefix_space;
  std::optional<SplitPattern> split;
};

using PreTokenizerStep = std::variant<SplitStep, MetaspaceStep, ByteLevelStep>;

// The words of a text, in order, none empty. `parts` are views into the text or into `written`.
struct Words {
  std::vector<std::string_view> parts;
  std::string written;
  bool are_bytes = false;  // What remains to do: each is to be written in byte characters.
};

// The pre-tokenizer of a tokenizer.json: cuts text into the words that the model encodes one by one.
// Immutable.
class PreTokenizer {
 public:
  // `field`: the pre_tokenizer, a step or a Sequence. Refuses by name what would not be exact.
  static Result<PreTokenizer> Read(const JsonField& field);

  // No steps: a text is one word.
  PreTokenizer() = default;
  bool HasMetaspaceFirst() const;

  // `text`: normalised UTF-8. `is_first`: it is the start of all that is encoded. With `at_start` false no
  // prefix is put before any word. Error: that of SplitPattern::ForEach.
  Status Run(std::string_view text, bool is_first, bool at_start, Words* words) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

}  // namespace espalier
