#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/token_decoder.h"

namespace espalier {

// What a tokenizer.json with a BPE model says.
struct TokenizerJson {
  std::vector<std::string> vocab;  // Token of each id of the model; empty: no token has the id.
  std::vector<std::pair<std::string, std::string>> merges;
  BpeOptions bpe;
  // Ordered by id; those within `vocab` agree with it.
  std::vector<AddedToken> added_tokens;

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;

  std::string template_bos;  // Token that the post-processor puts first; empty: none.
};

// Reads the file and refuses by name what would not be encoded or decoded exactly. Where the tokenizers
// package would number added tokens anew (it ignores an id that leaves a gap), they keep the id that the file
// gives.
Result<TokenizerJson> ReadTokenizerJson(const std::filesystem::path& file);

}  // namespace espalier
