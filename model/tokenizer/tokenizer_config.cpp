#include "model/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <set>

namespace espalier {
namespace {

// A token is named by its text or by an object that holds it as "content".
Result<std::string> NameOf(const JsonField& token) {
  if (!token.is_object()) return token.String();
  const auto content = token.Get("content");
  if (!content) return content.error();
  return content->String();
}

Status ReadNames(const JsonField& root, TokenizerConfig* config) {
  for (const auto& [name, target] :
       {std::pair{"bos_token", &config->bos_token}, std::pair{"eos_token", &config->eos_token}}) {
    const auto member = root.Find(name);
    if (!target->empty() || !member) continue;
    auto token = NameOf(*member);
    if (!token) return token.error();
    *target = std::move(*token);
  }
  return {};
}

// Tokens that are special because a file lists them so; what has another form there is none.
void ReadSpecialNames(const JsonField& root, std::set<std::string>* names) {
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    if (const auto member = root.Find(name)) {
      if (const auto token = NameOf(*member)) names->insert(*token);
    }
  }
  for (const char* name : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto list = root.Find(name);
    if (!list || !list->is_array()) continue;
    const auto elements = list->Elements();
    for (const JsonField& element : *elements) {
      if (const auto token = NameOf(element)) names->insert(*token);
    }
  }
}

Status ReadFlags(const JsonField& root, TokenizerConfig* config) {
  for (const auto& [name, target] :
       {std::pair{"add_bos_token", &config->add_bos_token}, std::pair{"legacy", &config->legacy},
        std::pair{"add_prefix_space", &config->add_prefix_space}}) {
    const auto member = root.Find(name);
    if (!member) continue;
    const auto value = member->Bool();
    if (!value) return value.error();
    *target = *value;
  }
  return {};
}

// An entry of tokenizer.json's added_tokens or of added_tokens_decoder, its id aside.
Result<AddedToken> ReadAddedToken(const JsonField& entry) {
  AddedToken token;
  const auto content_field = entry.Get("content");
  if (!content_field) return content_field.error();
  auto content = content_field->String();
  if (!content) return content.error();
  if (content->empty()) return content_field->Fail("is empty");
  token.content = std::move(*content);
  for (const auto& [name, target] :
       {std::pair{"special", &token.special}, std::pair{"normalized", &token.normalized},
        std::pair{"lstrip", &token.left_strip}, std::pair{"rstrip", &token.right_strip},
        std::pair{"single_word", &token.single_word}}) {
    const auto value = entry.BoolOr(name, false);
    if (!value) return value.error();
    *target = *value;
  }
  return token;
}

// Added tokens of several files, of which the first to list a token has its flags heeded.
class Collector {
 public:
  // `field` is the place of `token`.
  Status Add(const JsonField& field, AddedToken token, bool has_flags = true) {
    const std::string named = "\"" + token.content + "\" has the id " + std::to_string(token.id);
    const auto known = id_of_.find(token.content);
    if (known != id_of_.end()) {
      if (known->second == token.id) return {};
      return field.Fail(named + ", and " + std::to_string(known->second) + " in " + FileName(known->second));
    }
    const int32_t id = token.id;
    if (const auto taken = tokens_.find(id); taken != tokens_.end()) {
      return field.Fail(named + ", which is that of \"" + taken->second.token.content + "\" in " +
                        FileName(id));
    }
    id_of_.emplace(token.content, id);
    tokens_.emplace(id, ListedToken{std::move(token), field.file(), has_flags});
    return {};
  }

  // Ordered by id.
  std::vector<ListedToken> Take() {
    std::vector<ListedToken> out;
    out.reserve(tokens_.size());
    for (auto& [id, token] : tokens_) out.push_back(std::move(token));
    return out;
  }

 private:
  std::string FileName(int32_t id) const {
    return std::filesystem::path(tokens_.at(id).file).filename().string();
  }

  std::map<int32_t, ListedToken> tokens_;
  std::map<std::string, int32_t> id_of_;
};

// added_tokens_decoder of tokenizer_config.json: an object from ids to tokens.
Status ReadTokensDecoder(const JsonField& root, Collector* collector) {
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
    if (Status added = collector->Add(*entries, std::move(*token)); !added) return added;
  }
  return {};
}

// added_tokens.json: an object from tokens to ids.
Status ReadTokensFile(const JsonField& root, const std::set<std::string>& special_names,
                      Collector* collector) {
  for (const auto& [content, unused] : root.value().items()) {
    const auto entry = root.Get(content);
    if (!entry) return entry.error();
    const auto id = entry->Integer();
    if (!id) return id.error();
    if (*id < 0 || *id > std::numeric_limits<int32_t>::max()) return entry->Fail("is no token id");
    if (content.empty()) return root.Fail("holds an empty token");
    const bool special = special_names.contains(content);
    AddedToken token{
        .content = content, .id = static_cast<int32_t>(*id), .special = special, .normalized = !special};
    if (Status added = collector->Add(root, std::move(token), /*has_flags=*/false); !added) return added;
  }
  return {};
}

// Calls `read` with the object that a file holds, where there is such a file.
template <typename Read>
Status WithObject(const std::filesystem::path& file, Read read) {
  std::error_code failed;
  if (!std::filesystem::exists(file, failed)) return {};
  const auto document = ReadJsonFile(file);
  if (!document) return document.error();
  const JsonField root(*document, file.string());
  if (!root.is_object()) return root.Fail("must be an object");
  return read(root);
}

}  // namespace

Result<std::vector<AddedToken>> ReadAddedTokenList(const JsonField& list) {
  const auto entries = list.Elements();
  if (!entries) return entries.error();
  Collector collector;
  for (const JsonField& entry : *entries) {
    auto token = ReadAddedToken(entry);
    if (!token) return token.error();
    const auto id_field = entry.Get("id");
    if (!id_field) return id_field.error();
    const auto id = id_field->Integer();
    if (!id) return id.error();
    if (*id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      return id_field->Fail(std::to_string(*id) + " is no token id");
    }
    token->id = static_cast<int32_t>(*id);
    if (Status added = collector.Add(list, std::move(*token)); !added) return added.error();
  }
  std::vector<AddedToken> tokens;
  for (ListedToken& listed : collector.Take()) tokens.push_back(std::move(listed.token));
  return tokens;
}

Result<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder, bool with_tokenizer_json) {
  TokenizerConfig config;
  config.file = (folder / "tokenizer_config.json").string();
  Collector collector;
  std::set<std::string> special_names;
  Status read = WithObject(config.file, [&](const JsonField& root) -> Status {
    config.file_exists = true;
    ReadSpecialNames(root, &special_names);
    if (Status names = ReadNames(root, &config); !names) return names;
    if (Status flags = ReadFlags(root, &config); !flags) return flags;
    return ReadTokensDecoder(root, &collector);
  });
  if (!read) return read.error();
  read = WithObject(folder / "special_tokens_map.json", [&](const JsonField& root) -> Status {
    ReadSpecialNames(root, &special_names);
    return ReadNames(root, &config);
  });
  if (!read) return read.error();
  if (with_tokenizer_json) {
    read = WithObject(folder / "tokenizer.json", [&](const JsonField& root) -> Status {
      const auto list = root.Find("added_tokens");
      if (!list) return {};
      auto tokens = ReadAddedTokenList(*list);
      if (!tokens) return tokens.error();
      for (AddedToken& token : *tokens) {
        if (Status added = collector.Add(*list, std::move(token)); !added) return added;
      }
      return {};
    });
    if (!read) return read.error();
  }
  read = WithObject(folder / "added_tokens.json",
                    [&](const JsonField& root) { return ReadTokensFile(root, special_names, &collector); });
  if (!read) return read.error();
  config.added_tokens = collector.Take();
  return config;
}

}  // namespace espalier
