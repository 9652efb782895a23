#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/json_field.h"

namespace espalier {

// An added token and the file that lists it.
struct ListedToken {
  AddedToken token;
  std::string file;
  bool has_flags = true;  // False: the file gives nothing but the id.
};

// What the files next to a tokenizer say about it. Empty or nullopt: they say nothing.
struct TokenizerConfig {
  std::string file;  // Path of tokenizer_config.json, for error messages.
  bool file_exists =
      false;  // transformers made or uses this folder: its rules hold (sentencepiece_tokenizer.h).
  std::string bos_token;
  std::string eos_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  // Of all the files, ordered by id. No content and no id stands twice.
  std::vector<ListedToken> added_tokens;
};

// Reads tokenizer_config.json; special_tokens_map.json for what the former does not name; and the tokens that
// one of these files adds: added_tokens_decoder of tokenizer_config.json, whose flags hold, then added_tokens
// of tokenizer.json (`with_tokenizer_json`: it is not the tokenizer itself), then added_tokens.json. Files
// that do not exist say nothing; damaged ones, and files that give one token two ids or two tokens one id,
// are errors.
Result<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder, bool with_tokenizer_json);

// added_tokens of a tokenizer.json, ordered by id. A token that stands there again is taken once.
Result<std::vector<AddedToken>> ReadAddedTokenList(const JsonField& list);

}  // namespace espalier
