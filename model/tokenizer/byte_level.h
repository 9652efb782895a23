#pragma once

#include <string>
#include <string_view>

namespace espalier {

// Byte-level BPE writes each byte as one printable character (Radford et al., "Language Models are
// Unsupervised Multitask Learners", 2019): the printable ones of Latin-1 as they stand, the others in order
// from U+0100 on, so that a space reads "Ġ".
void AppendBytesAsCharacters(std::string_view bytes, std::string* out);

// The inverse. A text with a character that stands for no byte stands for its own bytes, as the tokenizers
// package has it. `text` is valid UTF-8.
std::string CharactersToBytes(std::string_view text);

}  // namespace espalier
