#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// What the library does not say about a SentencePiece model.
struct SentencePieceModel {
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  std::vector<int32_t> user_defined;  // Ids of user-defined symbols.
  // The same model with add_dummy_prefix off, for text that continues a sequence.
  std::string without_dummy_prefix;
};

// Reads `bytes`, a serialised ModelProto (sentencepiece_model.proto), as far as the library does not report
// it or does not check: it walks the trie of the normaliser's character map without looking at bounds, so a
// damaged one is found here. Refuses a model with denormalisation rules, whose text cannot be streamed.
// Errors: message only, no field.
Result<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes);

}  // namespace espalier
