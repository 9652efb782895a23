#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/json_field.h"

namespace espalier {

// What the files beside a tokenizer say about it. Empty or nullopt: they say nothing.
struct TokenizerConfig {
  std::string file;  // Path of tokenizer_config.json, for error messages.
  std::string bos_token;
  std::string eos_token;
  std::optional<bool> add_bos_token;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder, ordered by id.
};

// Reads tokenizer_config.json, and special_tokens_map.json for tokens that the former does not name. Files
// that do not exist say nothing; damaged ones are errors.
Result<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder);

// An entry of tokenizer.json's added_tokens or of added_tokens_decoder, its id aside.
Result<AddedToken> ReadAddedToken(const JsonField& entry);

}  // namespace espalier
