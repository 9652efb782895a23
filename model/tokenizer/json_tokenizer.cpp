#include "model/tokenizer/json_tokenizer.h"

#include <algorithm>
#include <map>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

// Takes in the tokens that other files add. The flags of tokenizer_config.json hold over those of
// tokenizer.json.
Status TakeListedTokens(const TokenizerConfig& config, TokenizerJson* json) {
  std::map<int32_t, AddedToken> tokens;
  std::unordered_map<std::string, int32_t> id_of;
  for (size_t id = 0; id < json->vocab.size(); ++id) id_of.emplace(json->vocab[id], static_cast<int32_t>(id));
  for (AddedToken& token : json->added_tokens) {
    id_of.emplace(token.content, token.id);
    tokens.emplace(token.id, std::move(token));
  }
  const size_t known_ids = json->vocab.size() + tokens.size() + config.added_tokens.size();
  for (const ListedToken& listed : config.added_tokens) {
    const AddedToken& token = listed.token;
    const std::string named = "added token \"" + token.content + "\" has the id " + std::to_string(token.id);
    const auto id = static_cast<size_t>(token.id);
    const auto known = id_of.find(token.content);
    if (known != id_of.end() && known->second != token.id) {
      return InvalidArgument(listed.file,
                             named + ", and " + std::to_string(known->second) + " in tokenizer.json");
    }
    const bool taken = tokens.contains(token.id) || (id < json->vocab.size() && !json->vocab[id].empty());
    if (known == id_of.end() && taken) {
      return InvalidArgument(listed.file, named + ", which is that of another token in tokenizer.json");
    }
    if (id >= known_ids + kMaxUnusedIds) {
      return InvalidArgument(listed.file, named + ", which leaves a gap after the vocabulary");
    }
    if (listed.has_flags || !tokens.contains(token.id)) tokens.insert_or_assign(token.id, token);
  }
  json->added_tokens.clear();
  for (auto& [id, token] : tokens) json->added_tokens.push_back(std::move(token));
  return {};
}

class TableMaker {
 public:
  explicit TableMaker(const TokenizerJson& json) : json_(json) {}

  Status AddTokens(TokenTable* table) const {
    const size_t added_end =
        json_.added_tokens.empty() ? 0 : static_cast<size_t>(json_.added_tokens.back().id) + 1;
    TokenInfo unused;
    unused.kind = TokenInfo::Kind::kSkipped;
    table->tokens.resize(std::max(json_.vocab.size(), added_end), unused);
    for (size_t id = 0; id < json_.vocab.size(); ++id) {
      const std::string& token = json_.vocab[id];
      if (token.empty()) continue;
      if (Status set = Set(static_cast<int32_t>(id), token, token, table); !set) return set;
    }
    for (const AddedToken& added : json_.added_tokens) {
      // A normalised token stood for its normalised form in the text, which is what decoding inverts.
      std::string form = added.content;
      if (added.normalized) {
        auto normalized = json_.normalizer.Run(added.content, /*at_start=*/true);
        if (!normalized) return normalized.error();
        form = std::move(*normalized);
      }
      if (Status set = Set(added.id, added.content, form, table); !set) return set;
      if (!added.special) continue;
      TokenInfo& info = table->tokens[static_cast<size_t>(added.id)];
      info.special = true;
      info.kind = TokenInfo::Kind::kSkipped;
      info.text.clear();
      table->first_tokens.erase(added.id);
    }
    return {};
  }

 private:
  Status Set(int32_t id, const std::string& piece, std::string_view form, TokenTable* table) const {
    TokenInfo& info = table->tokens[static_cast<size_t>(id)];
    auto read = json_.decoder.Info(form, /*is_first=*/false);
    if (!read) return read.error();
    info = std::move(*read);
    info.piece = piece;
    if (!json_.decoder.FirstDiffers()) return {};
    auto first = json_.decoder.Info(form, /*is_first=*/true);
    if (!first) return first.error();
    if (first->text == info.text && first->kind == info.kind) return {};
    first->piece = piece;
    table->first_tokens.insert_or_assign(id, std::move(*first));
    return {};
  }

  const TokenizerJson& json_;
};

Result<int32_t> IdOf(const std::vector<TokenInfo>& tokens, const std::string& name, const std::string& file,
                     const std::string& field) {
  const auto it =
      std::find_if(tokens.begin(), tokens.end(), [&](const TokenInfo& t) { return t.piece == name; });
  if (it != tokens.end()) return static_cast<int32_t>(it - tokens.begin());
  return InvalidArgument(file, field + ": the vocabulary has no token \"" + name + "\"");
}

Result<TokenTable> MakeTable(const TokenizerJson& json, const TokenizerConfig& config,
                             const std::string& file) {
  TokenTable table;
  if (Status added = TableMaker(json).AddTokens(&table); !added) {
    return InvalidArgument(file, "a token " + added.error().message);
  }
  table.leading_strip = json.decoder.leading_strip();
  const bool bos_from_config = !config.bos_token.empty();
  const std::string& bos = bos_from_config ? config.bos_token : json.template_bos;
  if (!bos.empty()) {
    const auto id = IdOf(table.tokens, bos, bos_from_config ? config.file : file,
                         bos_from_config ? "bos_token" : "post_processor");
    if (!id) return id.error();
    table.bos_id = *id;
  }
  if (!config.eos_token.empty()) {
    const auto id = IdOf(table.tokens, config.eos_token, config.file, "eos_token");
    if (!id) return id.error();
    table.eos_id = *id;
  }
  table.add_bos_by_default = table.bos_id >= 0 && config.add_bos_token.value_or(!json.template_bos.empty());
  return table;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> JsonTokenizer::Load(const std::filesystem::path& file,
                                                       const TokenizerConfig& config) {
  auto json = ReadTokenizerJson(file);
  if (!json) return json.error();
  if (Status taken = TakeListedTokens(config, &*json); !taken) return taken.error();
  auto model = BpeModel::Create(json->vocab, json->merges, json->bpe);
  if (!model) return InvalidArgument(file.string(), model.error().message);
  auto table = MakeTable(*json, config, file.string());
  if (!table) return table.error();
  table->unk_id = model->unk_id();
  std::unique_ptr<JsonTokenizer> tokenizer(
      new JsonTokenizer(std::move(*table), std::move(*json), std::move(*model)));
  if (Status added = tokenizer->AddMatchers(file.string()); !added) return added.error();
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

Status JsonTokenizer::AddMatchers(const std::string& file) {
  for (const AddedToken& token : json_.added_tokens) {
    Status added = token.normalized ? Status() : raw_matcher_.Add(token);
    for (const bool at_start : {false, true}) {
      if (!token.normalized || !added) continue;
      AddedToken form = token;
      auto normalized = json_.normalizer.Run(token.content, at_start);
      if (normalized) form.content = std::move(*normalized);
      added = normalized ? normalized_matchers_[at_start].Add(form) : Status(normalized.error());
    }
    if (!added) return InvalidArgument(file, "added_tokens: " + added.error().message);
  }
  return {};
}

Status JsonTokenizer::EncodeText(std::string_view text, const EncodeOptions& options,
                                 std::vector<int32_t>* ids) const {
  for (const TextSection& raw : raw_matcher_.Split(text, options.parse_special)) {
    if (raw.id >= 0) {
      ids->push_back(raw.id);
      continue;
    }
    std::string normalized;
    std::string_view section_text = raw.text;
    if (!json_.normalizer.empty()) {
      auto run = json_.normalizer.Run(raw.text, options.at_start);
      if (!run) return run.error();
      normalized = std::move(*run);
      section_text = normalized;
    }
    const AddedTokenMatcher& matcher = normalized_matchers_[options.at_start];
    for (const TextSection& section : matcher.Split(section_text, options.parse_special)) {
      if (section.id >= 0) {
        ids->push_back(section.id);
      } else {
        const bool is_first = raw.offset == 0 && section.offset == 0;
        if (Status encoded = EncodeSection(section.text, is_first, options.at_start, ids); !encoded) {
          return encoded;
        }
      }
    }
  }
  return {};
}

Status JsonTokenizer::EncodeSection(std::string_view section, bool is_first, bool at_start,
                                    std::vector<int32_t>* ids) const {
  Words words;
  if (Status cut = json_.pre_tokenizer.Run(section, is_first, at_start, &words); !cut) return cut;
  std::string characters;
  for (const std::string_view word : words.parts) {
    if (!words.are_bytes) {
      model_.Encode(word, ids);
      continue;
    }
    characters.clear();
    AppendBytesAsCharacters(word, &characters);
    model_.Encode(characters, ids);
  }
  return {};
}

std::string JsonTokenizer::Decode(std::span<const int32_t> ids) const {
  std::string out;
  std::string bytes;  // Those of byte tokens since the last other one.
  const auto flush_bytes = [&](bool by_run) {
    if (by_run) {
      AppendLossyByRun(bytes, &out);
    } else if (FindInvalidUtf8(bytes) == std::string_view::npos) {
      out += bytes;
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out += kReplacementCharacter;
    }
    bytes.clear();
  };
  bool is_first = true;
  bool by_run = false;
  for (const int32_t id : ids) {
    if (!IsValid(id)) continue;
    const TokenInfo& info = is_first ? FirstInfo(id) : Info(id);
    if (info.kind == TokenInfo::Kind::kSkipped) continue;
    is_first = false;
    if (info.kind == TokenInfo::Kind::kText) {
      flush_bytes(by_run);
      out += info.text;
    } else {
      by_run = info.kind == TokenInfo::Kind::kBytes;
      bytes += info.text;
    }
  }
  flush_bytes(by_run);

  size_t start = 0;
  for (int32_t i = 0; i < leading_strip().count; ++i) {
    if (!std::string_view(out).substr(start).starts_with(leading_strip().content)) break;
    start += leading_strip().content.size();
  }
  return out.substr(start);
}

}  // namespace espalier
