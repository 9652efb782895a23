#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_config.h"
#include "model/tokenizer/tokenizer_json.h"

namespace espalier {

// A tokenizer.json, encoded and decoded as the tokenizers package does. With at_start = false it is the
// tokenizer whose Prepend normalizer is taken out, whose Metaspace has prepend_scheme "never" and whose
// ByteLevel has no add_prefix_space.
class JsonTokenizer final : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> Load(const std::filesystem::path& file,
                                                 const TokenizerConfig& config);

  std::string Decode(std::span<const int32_t> ids) const override;

 private:
  JsonTokenizer(TokenTable table, TokenizerJson json, BpeModel model)
      : Tokenizer(std::move(table)), json_(std::move(json)), model_(std::move(model)) {}

  Status EncodeText(std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>* ids) const override;
  Status AddMatchers(const std::string& file);
  Status EncodeSection(std::string_view section, bool is_first, bool at_start,
                       std::vector<int32_t>* ids) const;

  TokenizerJson json_;
  BpeModel model_;
  AddedTokenMatcher raw_matcher_;
  AddedTokenMatcher normalized_matchers_[2];  // Index: at_start.
};

}  // namespace espalier
