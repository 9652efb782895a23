#include "model/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>

namespace espalier {
namespace {

// A token is named by its text or by an object that holds it as "content".
Result<std::string> TokenName(const JsonField& parent, const std::string& name) {
  const auto member = parent.Find(name);
  if (!member) return std::string();
  if (!member->is_object()) return member->String();
  const auto content = member->Get("content");
  if (!content) return content.error();
  return content->String();
}

Status ReadNames(const JsonField& root, TokenizerConfig* config) {
  for (const auto& [name, target] :
       {std::pair{"bos_token", &config->bos_token}, std::pair{"eos_token", &config->eos_token}}) {
    if (!target->empty()) continue;
    auto token = TokenName(root, name);
    if (!token) return token.error();
    *target = std::move(*token);
  }
  return {};
}

Status ReadAddedTokens(const JsonField& root, TokenizerConfig* config) {
  const auto entries = root.Find("added_tokens_decoder");
  if (!entries) return {};
  if (!entries->is_object()) return entries->Fail("must be an object");
  for (const auto& [key, unused] : entries->value().items()) {
    int32_t id = -1;
    const auto [end, failed] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (failed != std::errc() || end != key.data() + key.size() || id < 0) {
      return entries->Fail("\"" + key + "\" is no token id");
    }
    const auto entry = entries->Get(key);
    if (!entry) return entry.error();
    auto token = ReadAddedToken(*entry);
    if (!token) return token.error();
    token->id = id;
    config->added_tokens.push_back(std::move(*token));
  }
  std::sort(config->added_tokens.begin(), config->added_tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return {};
}

}  // namespace

Result<AddedToken> ReadAddedToken(const JsonField& entry) {
  AddedToken token;
  const auto content_field = entry.Get("content");
  if (!content_field) return content_field.error();
  auto content = content_field->String();
  if (!content) return content.error();
  if (content->empty()) return content_field->Fail("is empty");
  token.content = std::move(*content);

  bool single_word = false;
  for (const auto& [name, target] :
       {std::pair{"special", &token.special}, std::pair{"normalized", &token.normalized},
        std::pair{"lstrip", &token.left_strip}, std::pair{"rstrip", &token.right_strip},
        std::pair{"single_word", &single_word}}) {
    const auto value = entry.BoolOr(name, false);
    if (!value) return value.error();
    *target = *value;
  }
  if (single_word) return entry.Fail("single_word is not supported");
  return token;
}

Result<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder) {
  TokenizerConfig config;
  const std::filesystem::path config_file = folder / "tokenizer_config.json";
  config.file = config_file.string();
  std::error_code failed;
  if (std::filesystem::exists(config_file, failed)) {
    const auto document = ReadJsonFile(config_file);
    if (!document) return document.error();
    const JsonField root(*document, config.file);
    if (!root.is_object()) return root.Fail("must be an object");
    if (Status read = ReadNames(root, &config); !read) return read.error();
    if (Status read = ReadAddedTokens(root, &config); !read) return read.error();
    if (const auto add_bos = root.Find("add_bos_token")) {
      const auto value = add_bos->Bool();
      if (!value) return value.error();
      config.add_bos_token = *value;
    }
  }
  const std::filesystem::path map_file = folder / "special_tokens_map.json";
  if (std::filesystem::exists(map_file, failed)) {
    const auto document = ReadJsonFile(map_file);
    if (!document) return document.error();
    const JsonField root(*document, map_file.string());
    if (!root.is_object()) return root.Fail("must be an object");
    if (Status read = ReadNames(root, &config); !read) return read.error();
  }
  return config;
}

}  // namespace espalier
