#include "model/tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>  // Declares its own absl: no gRPC or abseil header in this file.

#include <cstdlib>
#include <exception>
#include <limits>
#include <map>
#include <unordered_map>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/json_field.h"
#include "model/tokenizer/sentencepiece_model.h"
#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

using Processor = sentencepiece::SentencePieceProcessor;

Result<std::unique_ptr<Processor>> LoadProcessor(std::string_view model) {
  sentencepiece::SetMinLogLevel(std::numeric_limits<int>::max());  // Errors come back as values.
  auto processor = std::make_unique<Processor>();
  try {
    const auto status = processor->LoadFromSerializedProto(model);
    if (!status.ok()) return InvalidArgument("", "is no sound SentencePiece model: " + status.ToString());
  } catch (const std::bad_alloc&) {
    throw;  // no fault of the model
  } catch (const std::exception& error) {
    return InvalidArgument("", std::string("is no sound SentencePiece model: ") + error.what());
  }
  return processor;
}

// Which sections of text between tokens have a dummy prefix: see the header.
struct PrefixRule {
  enum class Where : uint8_t { kFirstSection, kStartOfText, kEachSection, kNowhere };
  Where where = Where::kFirstSection;
  bool before_space = true;  // Also where the text begins with a space.

  bool Holds(const TextSection& section, bool is_first_section) const {
    if (!before_space && (section.text.starts_with(' ') || section.text.starts_with(kSpaceMark)))
      return false;
    switch (where) {
      case Where::kFirstSection:
        return is_first_section;
      case Where::kStartOfText:
        return section.offset == 0;
      case Where::kEachSection:
        return true;
      case Where::kNowhere:
        break;
    }
    return false;
  }
};

PrefixRule RuleOf(const SentencePieceModel& model, const TokenizerConfig& config) {
  PrefixRule rule;
  if (!config.file_exists) return rule;
  rule.where =
      config.legacy.value_or(false) ? PrefixRule::Where::kEachSection : PrefixRule::Where::kStartOfText;
  if (!config.add_prefix_space.value_or(true)) rule.where = PrefixRule::Where::kNowhere;
  // Where the model drops spaces at the start, its prefix takes their place.
  rule.before_space = model.remove_extra_whitespaces;
  return rule;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(TokenTable table, AddedTokenMatcher matcher, PrefixRule prefix_rule,
                         std::unique_ptr<Processor> with_prefix, std::unique_ptr<Processor> without_prefix)
      : Tokenizer(std::move(table)),
        prefix_rule_(prefix_rule),
        matcher_(std::move(matcher)),
        with_prefix_(std::move(with_prefix)),
        without_prefix_(std::move(without_prefix)) {}

  std::string Decode(std::span<const int32_t> ids) const override;

 private:
  Status EncodeText(std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>* ids) const override;

  PrefixRule prefix_rule_;
  AddedTokenMatcher matcher_;  // Control tokens, which the library never finds in a text, and added tokens.
  std::unique_ptr<Processor> with_prefix_;
  std::unique_ptr<Processor> without_prefix_;
};

Status SentencePieceTokenizer::EncodeText(std::string_view text, const EncodeOptions& options,
                                          std::vector<int32_t>* ids) const {
  bool is_first_section = true;
  std::vector<int> section_ids;
  for (const TextSection& section : matcher_.Split(text, options.parse_special)) {
    if (section.id >= 0) {
      ids->push_back(section.id);
      continue;
    }
    const bool prefix = options.at_start && prefix_rule_.Holds(section, is_first_section);
    const Processor& processor = prefix ? *with_prefix_ : *without_prefix_;
    is_first_section = false;
    try {
      const auto status = processor.Encode(section.text, &section_ids);
      if (!status.ok()) return InternalError("SentencePiece: " + status.ToString());
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      return InternalError(std::string("SentencePiece: ") + error.what());
    }
    ids->insert(ids->end(), section_ids.begin(), section_ids.end());
  }
  return {};
}

std::string SentencePieceTokenizer::Decode(std::span<const int32_t> ids) const {
  StreamDecoder stream(*this, /*at_start=*/true);
  std::string text;
  for (const int32_t id : ids) text += stream.Push(id);
  return text + stream.FinishBytewise();
}

TokenInfo MakeInfo(const Processor& processor, int id) {
  TokenInfo info;
  info.piece = processor.IdToPiece(id);
  if (processor.IsControl(id)) {
    info.special = true;
  } else if (processor.IsUnknown(id)) {
    info.special = true;
    // The surface that the model gives to unknown text, " ⁇ " unless it says otherwise.
    if (!processor.Decode(std::vector<int>{id}, &info.text).ok()) info.text.clear();
  } else if (processor.IsByte(id)) {
    info.kind = TokenInfo::Kind::kByte;
    // The library has checked that the piece reads <0xHH>.
    const auto byte = std::strtoul(info.piece.substr(3, 2).c_str(), nullptr, 16);
    info.text.assign(1, static_cast<char>(static_cast<uint8_t>(byte)));
  } else {
    info.text = ReplaceAll(info.piece, kSpaceMark, " ");
    info.strippable = info.piece.starts_with(kSpaceMark);
  }
  return info;
}

// Takes in the tokens that files next to the model list. `tokens` are those of the model; `matched` is what
// is to be found in texts, by id.
Status TakeListedTokens(const TokenizerConfig& config, std::vector<TokenInfo>* tokens,
                        std::map<int32_t, AddedToken>* matched) {
  std::unordered_map<std::string, int32_t> id_of;
  for (size_t id = 0; id < tokens->size(); ++id) id_of.emplace((*tokens)[id].piece, static_cast<int32_t>(id));
  const size_t known_ids = tokens->size() + config.added_tokens.size();
  for (const ListedToken& listed : config.added_tokens) {
    const AddedToken& added = listed.token;
    const auto id = static_cast<size_t>(added.id);
    const std::string named = "added token \"" + added.content + "\" has the id " + std::to_string(added.id);
    const auto known = id_of.find(added.content);
    if (known != id_of.end() && known->second != added.id) {
      return InvalidArgument(listed.file,
                             named + ", and " + std::to_string(known->second) + " in tokenizer.model");
    }
    if (known == id_of.end() && id < tokens->size() && !(*tokens)[id].piece.empty()) {
      return InvalidArgument(listed.file,
                             named + ", which is that of \"" + (*tokens)[id].piece + "\" in tokenizer.model");
    }
    if (id >= known_ids + kMaxUnusedIds) {
      return InvalidArgument(listed.file, named + ", which leaves a gap after the vocabulary");
    }
    if (known == id_of.end()) {
      TokenInfo unused;
      unused.kind = TokenInfo::Kind::kSkipped;
      if (id >= tokens->size()) tokens->resize(id + 1, unused);
      TokenInfo& info = (*tokens)[id];
      info = {};
      info.piece = added.content;
      info.text = ReplaceAll(added.content, kSpaceMark, " ");
      info.strippable = info.text.starts_with(' ');
    }
    TokenInfo& info = (*tokens)[id];
    if (added.special && !info.special && info.kind == TokenInfo::Kind::kText) {
      info.special = true;
      info.text.clear();
    }
    if (listed.has_flags || !matched->contains(added.id)) matched->insert_or_assign(added.id, added);
  }
  return {};
}

// Replaces `id` by that of `name`, if the configuration names one.
Status Rename(const std::vector<TokenInfo>& tokens, const std::string& name, const std::string& file,
              const std::string& field, int32_t* id) {
  if (name.empty()) return {};
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].piece != name) continue;
    *id = static_cast<int32_t>(i);
    return {};
  }
  return InvalidArgument(file, field + ": the vocabulary has no token \"" + name + "\"");
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& file,
                                                     const TokenizerConfig& config) {
  const auto bytes = ReadWholeFile(file);
  if (!bytes) return bytes.error();
  const auto in_file = [&file](const Error& error) { return InvalidArgument(file.string(), error.message); };
  const auto model = ReadSentencePieceModel(*bytes);
  if (!model) return in_file(model.error());
  auto with_prefix = LoadProcessor(*bytes);
  if (!with_prefix) return in_file(with_prefix.error());
  auto without_prefix = LoadProcessor(model->without_dummy_prefix);
  if (!without_prefix) return in_file(without_prefix.error());

  const Processor& processor = **with_prefix;
  const int32_t model_size = processor.GetPieceSize();
  if (model_size <= 0) return InvalidArgument(file.string(), "has no pieces");
  TokenTable table;
  std::map<int32_t, AddedToken> matched;
  for (int32_t id = 0; id < model_size; ++id) {
    table.tokens.push_back(MakeInfo(processor, id));
    const TokenInfo& info = table.tokens.back();
    const bool text_is_utf8 =
        info.kind == TokenInfo::Kind::kByte || FindInvalidUtf8(info.text) == std::string_view::npos;
    if (!text_is_utf8 || FindInvalidUtf8(info.piece) != std::string_view::npos) {
      return InvalidArgument(file.string(), "piece " + std::to_string(id) + " is not valid UTF-8");
    }
    if (!info.special) continue;
    matched.emplace(id, AddedToken{.content = info.piece, .id = id, .special = true});
  }
  // The library finds these by itself. To transformers text ends at them, which decides about prefixes.
  for (const int32_t id : model->user_defined) {
    if (!config.file_exists || id >= model_size) continue;
    matched.emplace(id, AddedToken{.content = table.tokens[static_cast<size_t>(id)].piece, .id = id});
  }
  if (Status taken = TakeListedTokens(config, &table.tokens, &matched); !taken) return taken.error();
  AddedTokenMatcher matcher;
  for (const auto& [id, token] : matched) {
    if (Status added = matcher.Add(token); !added) return in_file(added.error());
  }

  const PrefixRule rule = RuleOf(*model, config);
  if (model->remove_extra_whitespaces) {
    table.leading_strip = {std::numeric_limits<int32_t>::max(), true, " "};
  } else if (model->add_dummy_prefix && rule.where != PrefixRule::Where::kNowhere) {
    table.leading_strip = {1, true, " "};
  }
  table.unk_id = processor.unk_id();
  table.bos_id = processor.bos_id();
  table.eos_id = processor.eos_id();
  for (const auto& [name, field, id] : {std::tuple{&config.bos_token, "bos_token", &table.bos_id},
                                        std::tuple{&config.eos_token, "eos_token", &table.eos_id}}) {
    if (Status renamed = Rename(table.tokens, *name, config.file, field, id); !renamed)
      return renamed.error();
  }
  table.add_bos_by_default = table.bos_id >= 0 && config.add_bos_token.value_or(true);
  return std::unique_ptr<Tokenizer>(std::make_unique<SentencePieceTokenizer>(
      std::move(table), std::move(matcher), rule, std::move(*with_prefix), std::move(*without_prefix)));
}

}  // namespace espalier
