#include "model/tokenizer/tokenizer.h"

#include <algorithm>

#include "kernels/base/exhaustion.h"
#include "model/folder_hints.h"
#include "model/tokenizer/json_tokenizer.h"
#include "model/tokenizer/sentencepiece_tokenizer.h"
#include "model/tokenizer/stream_decoder.h"
#include "model/tokenizer/tokenizer_config.h"
#include "model/tokenizer/utf8.h"

namespace espalier {

Tokenizer::Tokenizer(TokenTable table) : table_(std::move(table)) {
  piece_to_id_.reserve(table_.tokens.size());
  for (int32_t id = 0; id < vocab_size(); ++id) {
    const TokenInfo& token = Info(id);
    if (token.kind != TokenInfo::Kind::kSkipped || !token.piece.empty())
      piece_to_id_.emplace(token.piece, id);
    const size_t bytes = token.special ? token.piece.size() : token.text.size();
    longest_token_bytes_ = std::max(longest_token_bytes_, bytes);
  }
}

std::optional<int32_t> Tokenizer::PieceToId(std::string_view piece) const {
  const auto it = piece_to_id_.find(piece);
  if (it == piece_to_id_.end()) return std::nullopt;
  return it->second;
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return InvalidArgument(
        "text", "has " + std::to_string(text.size()) + " bytes, more than " + std::to_string(kMaxTextBytes));
  }
  if (const size_t at = FindInvalidUtf8(text); at != std::string_view::npos) {
    return InvalidArgument("text", "is not valid UTF-8 at byte " + std::to_string(at));
  }
  std::vector<int32_t> ids;
  if (options.add_bos) {
    if (bos_id() < 0) return InvalidArgument("add_bos", "the tokenizer has no beginning-of-sequence token");
    ids.push_back(bos_id());
  }
  if (Status encoded = EncodeText(text, options, &ids); !encoded) return encoded.error();
  return ids;
}

std::string Tokenizer::DecodeContinuation(std::span<const int32_t> ids) const {
  StreamDecoder stream(*this, /*at_start=*/false);
  std::string text;
  for (const int32_t id : ids) text += stream.Push(id);
  return text + stream.Finish();
}

namespace {

Result<std::unique_ptr<Tokenizer>> Load(const std::filesystem::path& folder_or_file, int32_t id_limit) {
  std::error_code failed;
  std::filesystem::path folder = folder_or_file;
  std::filesystem::path file = folder_or_file;
  if (std::filesystem::is_directory(folder_or_file, failed)) {
    file = folder / "tokenizer.model";
    if (!std::filesystem::exists(file, failed)) file = folder / "tokenizer.json";
    if (!std::filesystem::exists(file, failed)) {
      return InvalidArgument(
          folder.string(), "holds neither tokenizer.model nor tokenizer.json" + HeldInstead(folder.string()));
    }
  } else {
    if (!std::filesystem::exists(file, failed) && !failed) {
      return InvalidArgument(file.string(), MissingMessage(file.string()));
    }
    folder = file.parent_path();
  }
  const bool is_json = file.extension() == ".json";
  auto config = ReadTokenizerConfig(folder, /*with_tokenizer_json=*/!is_json);
  if (!config) return config.error();
  std::erase_if(config->added_tokens,
                [id_limit](const ListedToken& listed) { return listed.token.id >= id_limit; });
  if (is_json) return JsonTokenizer::Load(file, *config);
  return LoadSentencePiece(file, *config);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::filesystem::path& folder_or_file,
                                                 int32_t id_limit) {
  return OrExhausted(folder_or_file.string(), "loading the tokenizer",
                     [&] { return Load(folder_or_file, id_limit); });
}

}  // namespace espalier
