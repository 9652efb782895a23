#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace espalier::bench {

// Kinds of text that tokenizers take differently:
//   words    English words, punctuation, line breaks
//   digits   numbers of 1 to 12 digits
//   spaces   runs of up to 1000 spaces, tabs and line breaks between words
//   run      letters without any space or line break: one word for every pre-tokenizer
//   scripts  words of 10 scripts, emoji with joiners and combining marks
const std::vector<std::string>& TextKinds();

// Valid UTF-8 of `bytes` bytes, or up to 3 fewer where a character would be cut. The same arguments give the
// same text, and a longer text begins with the shorter one. Precondition: `kind` is one of TextKinds().
std::string MakeText(const std::string& kind, size_t bytes);

}  // namespace espalier::bench
