#include "model/tokenizer/json_tokenizer.h"

#include <algorithm>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

std::string Normalize(const std::vector<NormalizerStep>& steps, bool at_start, std::string_view text) {
  std::string out(text);
  for (const NormalizerStep& step : steps) {
    if (!step.prepend) {
      out = ReplaceAll(out, step.pattern, step.content);
    } else if (at_start && !out.empty()) {
      out.insert(0, step.content);
    }
  }
  return out;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte that "<0x0A>" stands for; -1: it stands for itself.
int ByteOf(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
  const int high = HexDigit(token[3]);
  const int low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

TokenInfo MakeInfo(const TokenizerJson& json, std::string piece, std::string_view decoder_input) {
  TokenInfo info;
  info.piece = std::move(piece);
  if (json.byte_level) {
    info.kind = TokenInfo::Kind::kBytes;
    info.text = CharactersToBytes(decoder_input);
    return info;
  }
  info.text = decoder_input;
  info.strippable = true;
  for (const ReplaceStep& step : json.decoder_replaces) {
    info.text = ReplaceAll(info.text, step.pattern, step.content);
  }
  if (const int byte = json.decoder_byte_fallback ? ByteOf(info.text) : -1; byte >= 0) {
    info.kind = TokenInfo::Kind::kByte;
    info.text.assign(1, static_cast<char>(static_cast<uint8_t>(byte)));
  }
  return info;
}

std::vector<TokenInfo> MakeTokens(const TokenizerJson& json) {
  std::vector<TokenInfo> tokens;
  for (const std::string& token : json.vocab) tokens.push_back(MakeInfo(json, token, token));
  for (const AddedToken& added : json.added_tokens) {
    const auto id = static_cast<size_t>(added.id);
    if (id == tokens.size()) tokens.emplace_back();
    // A normalised token stood for its normalised form in the text, which is what decoding inverts.
    const std::string form =
        added.normalized ? Normalize(json.normalizer, /*at_start=*/true, added.content) : added.content;
    tokens[id] = MakeInfo(json, added.content, form);
    if (added.special) {
      tokens[id].special = true;
      tokens[id].kind = TokenInfo::Kind::kSkipped;
      tokens[id].text.clear();
    }
  }
  return tokens;
}

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
  table.tokens = MakeTokens(json);
  table.leading_strip = json.leading_strip;
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
      form.content = Normalize(json_.normalizer, at_start, token.content);
      added = normalized_matchers_[at_start].Add(form);
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
    const std::string normalized = Normalize(json_.normalizer, options.at_start, raw.text);
    const AddedTokenMatcher& matcher = normalized_matchers_[options.at_start];
    for (const TextSection& section : matcher.Split(normalized, options.parse_special)) {
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
  if (json_.byte_level) return EncodeByteLevel(section, ids);
  if (json_.metaspace) {
    EncodeMetaspace(section, is_first, at_start, ids);
  } else {
    model_.Encode(section, ids);
  }
  return {};
}

Status JsonTokenizer::EncodeByteLevel(std::string_view section, std::vector<int32_t>* ids) const {
  std::vector<std::string_view> words = {section};
  if (json_.byte_level->split) {
    words.clear();
    if (Status split = json_.byte_level->split->Split(section, &words); !split) return split;
  }
  for (const std::string_view word : words) model_.Encode(BytesToCharacters(word), ids);
  return {};
}

void JsonTokenizer::EncodeMetaspace(std::string_view section, bool is_first, bool at_start,
                                    std::vector<int32_t>* ids) const {
  const Metaspace& metaspace = *json_.metaspace;
  const std::string& mark = metaspace.replacement;
  std::string text = ReplaceAll(section, " ", mark);
  const bool prepends = metaspace.prepend == Metaspace::Prepend::kAlways ||
                        (metaspace.prepend == Metaspace::Prepend::kFirst && is_first);
  if (at_start && prepends && !text.starts_with(mark)) text.insert(0, mark);
  if (!metaspace.split) return model_.Encode(text, ids);

  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(mark, rest.starts_with(mark) ? mark.size() : 0), rest.size());
    model_.Encode(rest.substr(0, end), ids);
    rest.remove_prefix(end);
  }
}

std::string JsonTokenizer::Decode(std::span<const int32_t> ids) const {
  std::string out;
  if (json_.byte_level) {
    std::string all_bytes;
    for (const int32_t id : ids) {
      if (IsValid(id)) all_bytes += Info(id).text;
    }
    AppendLossyByRun(all_bytes, &out);
    return out;
  }
  std::string bytes;  // Byte tokens since the last other one: text together, or U+FFFD each.
  const auto flush_bytes = [&] {
    if (FindInvalidUtf8(bytes) == std::string_view::npos) {
      out += bytes;
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out += kReplacementCharacter;
    }
    bytes.clear();
  };
  for (const int32_t id : ids) {
    if (!IsValid(id)) continue;
    const TokenInfo& info = Info(id);
    if (info.kind == TokenInfo::Kind::kByte) bytes += info.text;
    if (info.kind != TokenInfo::Kind::kText) continue;
    flush_bytes();
    out += info.text;
  }
  flush_bytes();

  size_t start = 0;
  for (int32_t i = 0; i < leading_strip().count; ++i) {
    if (!std::string_view(out).substr(start).starts_with(leading_strip().content)) break;
    start += leading_strip().content.size();
  }
  return out.substr(start);
}

}  // namespace espalier
