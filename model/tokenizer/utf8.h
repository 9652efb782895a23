#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace espalier {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// The character at the start of a byte string (Unicode 15, table 3-7: no surrogates, no overlong forms,
// nothing above U+10FFFF).
struct Utf8Char {
  enum class State : uint8_t {
    kValid,
    kInvalid,     // No continuation makes these bytes a character.
    kIncomplete,  // A prefix of a character: more bytes may complete it.
  };
  State state = State::kInvalid;
  uint8_t size_bytes = 0;  // kValid: 1..4. Otherwise 0.
  char32_t code_point = 0;
};

// Precondition: !bytes.empty().
Utf8Char ReadUtf8(std::string_view bytes);

// Offset of the first byte that is no part of a valid character; npos when all of `text` is valid.
size_t FindInvalidUtf8(std::string_view text);

// Appends `code_point` (a valid one) to `out`.
void AppendUtf8(char32_t code_point, std::string* out);

// Appends `bytes` as text: each byte that is no part of a valid character becomes one U+FFFD.
void AppendLossy(std::string_view bytes, std::string* out);

// The same with one U+FFFD for each longest run of bytes that begins a character, and for each byte that
// begins none (Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts").
void AppendLossyByRun(std::string_view bytes, std::string* out);

// `text` with every `from` replaced by `to`, left to right without overlap. Precondition: !from.empty().
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

// Where the white space (property White_Space) at the end of `text` starts; how many bytes of it stand at the
// beginning. `text` is valid UTF-8.
size_t TrailingSpaceStart(std::string_view text);
size_t LeadingSpaceBytes(std::string_view text);

}  // namespace espalier
