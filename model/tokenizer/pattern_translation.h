#pragma once

#include <string>
#include <string_view>

#include "kernels/base/result.h"

namespace espalier {

// A regular expression in the syntax of Oniguruma, the library of the tokenizers package, written for PCRE2
// (with UTF, UCP and MULTILINE, "\n" as the only newline). What does not mean the same to both is refused;
// split_pattern.h says what that leaves. The error has a message alone.
Result<std::string> TranslatePattern(std::string_view pattern);

// What stands in a set of PCRE2 for the characters of a general category of Unicode 16 ("Lu") or of a group
// of them ("L"); empty for a name that is not supported.
std::string CategoryMembers(std::string_view name);

// The same for \w: word characters of Unicode 16. Outside sets Oniguruma counts kLatinWordNumbers in.
std::string WordMembers();
inline constexpr std::string_view kLatinWordNumbers = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";

}  // namespace espalier
