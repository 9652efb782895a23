#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/unicode_normalization.h"

namespace espalier {

struct PrependStep {  // Puts `content` before a text that is not empty.
  std::string content;
};
struct ReplaceStep {  // A text that is not empty, by `content`.
  std::string pattern;
  std::string content;
};
struct ReplacePatternStep {
  SplitPattern pattern;
  std::string content;
};
struct FormStep {
  NormalizationForm form;
};
struct LowercaseStep {};
struct StripSpaceStep {
  bool left;
  bool right;
};

// The normalizer of a tokenizer.json: what becomes of a text before it is cut into words. Immutable.
class Normalizer {
 public:
  // `field`: the normalizer, a step or a Sequence. Refuses by name what would not be exact.
  static Result<Normalizer> Read(const JsonField& field);

  // No steps: the text stays as it is.
  Normalizer() = default;
  bool empty() const { return steps_.empty(); }

  // `text` is valid UTF-8. With `at_start` false nothing is put before it. Error (kInvalidArgument, field
  // "text"): the text grows to more than 16 times its size.
  Result<std::string> Run(std::string_view text, bool at_start) const;

 private:
  using Step =
      std::variant<PrependStep, ReplaceStep, ReplacePatternStep, FormStep, LowercaseStep, StripSpaceStep>;
  std::vector<Step> steps_;
};

// The pattern and the content of a step of type Replace, of a normalizer or a decoder.
Result<std::variant<ReplaceStep, ReplacePatternStep>> ReadReplace(const JsonField& step);

// Appends `text` with all that the step finds replaced. Error: field "text", the result has more than
// `max_bytes`, or the pattern takes too long.
Status AppendReplaced(std::string_view text, const ReplaceStep& step, size_t max_bytes, std::string* out);
Status AppendReplaced(std::string_view text, const ReplacePatternStep& step, size_t max_bytes,
                      std::string* out);

}  // namespace espalier
