#include "model/tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>  // Declares its own absl: no gRPC or abseil header in this file.

#include <cstdlib>
#include <exception>
#include <limits>

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

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(TokenTable table, AddedTokenMatcher matcher, std::unique_ptr<Processor> with_prefix,
                         std::unique_ptr<Processor> without_prefix)
      : Tokenizer(std::move(table)),
        matcher_(std::move(matcher)),
        with_prefix_(std::move(with_prefix)),
        without_prefix_(std::move(without_prefix)) {}

  std::string Decode(std::span<const int32_t> ids) const override;

 private:
  Status EncodeText(std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>* ids) const override;

  AddedTokenMatcher matcher_;  // Control tokens, which the library never finds in a text, and added tokens.
  std::unique_ptr<Processor> with_prefix_;
  std::unique_ptr<Processor> without_prefix_;
};

Status SentencePieceTokenizer::EncodeText(std::string_view text, const EncodeOptions& options,
                                          std::vector<int32_t>* ids) const {
  bool prefix = options.at_start;
  std::vector<int> section_ids;
  for (const TextSection& section : matcher_.Split(text, options.parse_special)) {
    if (section.id >= 0) {
      ids->push_back(section.id);
      continue;
    }
    const Processor& processor = prefix ? *with_prefix_ : *without_prefix_;
    prefix = false;
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

// Appends the tokens that the configuration adds after those of the model.
Status AppendAddedTokens(const TokenizerConfig& config, std::vector<TokenInfo>* tokens,
                         AddedTokenMatcher* matcher) {
  for (const AddedToken& added : config.added_tokens) {
    const auto next_id = static_cast<int32_t>(tokens->size());
    if (added.id < next_id) continue;  // A token of the model, listed again.
    if (added.id > next_id) {
      return InvalidArgument(config.file, "added_tokens_decoder: id " + std::to_string(added.id) +
                                              " leaves a gap after " + std::to_string(next_id - 1));
    }
    TokenInfo info;
    info.piece = added.content;
    info.special = added.special;
    if (!added.special) info.text = added.content;
    tokens->push_back(std::move(info));
    if (Status status = matcher->Add(added); !status) {
      return InvalidArgument(config.file, "added_tokens_decoder: " + status.error().message);
    }
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
  AddedTokenMatcher matcher;
  for (int32_t id = 0; id < model_size; ++id) {
    table.tokens.push_back(MakeInfo(processor, id));
    const TokenInfo& info = table.tokens.back();
    const bool text_is_utf8 =
        info.kind == TokenInfo::Kind::kByte || FindInvalidUtf8(info.text) == std::string_view::npos;
    if (!text_is_utf8 || FindInvalidUtf8(info.piece) != std::string_view::npos) {
      return InvalidArgument(file.string(), "piece " + std::to_string(id) + " is not valid UTF-8");
    }
    if (!info.special) continue;
    AddedToken control{.content = info.piece, .id = id, .special = true};
    if (Status added = matcher.Add(control); !added) return in_file(added.error());
  }
  if (Status added = AppendAddedTokens(config, &table.tokens, &matcher); !added) return added.error();

  if (model->remove_extra_whitespaces) {
    table.leading_strip = {std::numeric_limits<int32_t>::max(), true, " "};
  } else if (model->add_dummy_prefix) {
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
      std::move(table), std::move(matcher), std::move(*with_prefix), std::move(*without_prefix)));
}

}  // namespace espalier
