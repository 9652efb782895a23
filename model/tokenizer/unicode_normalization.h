#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace espalier {

// The forms of Unicode Standard Annex 15 and lower case, as the tokenizers package has them: its tables of
// decompositions and combining classes are those of Unicode 9, so later characters stay as they are; its
// lower case is that of Unicode 17, character by character.
enum class NormalizationForm : uint8_t { kNfd, kNfkd, kNfc, kNfkc };

// `text` is valid UTF-8. Time grows as n log n, with the length of the longest run of combining characters;
// the result has at most 11 times the bytes of `text`.
std::string NormalizeUnicode(std::string_view text, NormalizationForm form);

// The result has at most 3 times the bytes of `text`.
std::string ToLowerCase(std::string_view text);

}  // namespace espalier
