#include "model/tokenizer/tokenizer_json.h"

#include <string_view>
#include <unordered_map>

#include "model/tokenizer/json_field.h"
#include "model/tokenizer/json_steps.h"
#include "model/tokenizer/tokenizer_config.h"

namespace espalier {
namespace {

Status ReadVocab(const JsonField& model, TokenizerJson* out) {
  const auto vocab = model.Get("vocab");
  if (!vocab) return vocab.error();
  if (!vocab->is_object()) return vocab->Fail("must be an object");
  const size_t count = vocab->value().size();
  if (count == 0) return vocab->Fail("is empty");
  std::vector<bool> seen(count, false);
  out->vocab.resize(count);
  for (const auto& [token, value] : vocab->value().items()) {
    if (!value.is_number_unsigned()) return vocab->Fail("the id of \"" + token + "\" is no number");
    const auto id = value.get<uint64_t>();
    if (id >= count + kMaxUnusedIds) {
      return vocab->Fail("the id " + std::to_string(id) + " of \"" + token + "\" leaves a gap: there are " +
                         std::to_string(count) + " tokens");
    }
    if (id >= seen.size()) {
      seen.resize(id + 1, false);
      out->vocab.resize(id + 1);
    }
    if (seen[id]) return vocab->Fail("the id " + std::to_string(id) + " stands twice");
    seen[id] = true;
    out->vocab[id] = token;
  }
  return {};
}

Status ReadMerges(const JsonField& model, TokenizerJson* out) {
  const auto merges = model.Get("merges");
  if (!merges) return merges.error();
  if (!merges->is_array()) return merges->Fail("must be an array");
  const nlohmann::json& list = merges->value();
  out->merges.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const nlohmann::json& merge = list[i];
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        out->merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    return merges->Fail("entry " + std::to_string(i) + " is no pair of tokens");
  }
  return {};
}

Status ReadModel(const JsonField& root, TokenizerJson* out) {
  const auto model = root.Get("model");
  if (!model) return model.error();
  // Files of early versions leave the type of a BPE model out.
  const auto type = model->StringOr("type", "BPE");
  if (!type) return type.error();
  if (*type == "Unigram") {
    return NotSupported(*model, "type \"Unigram\" (a SentencePiece tokenizer.model of that kind is served)");
  }
  if (*type != "BPE") return NotSupported(*model, "type \"" + *type + "\" (only BPE is served)");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model->StringOr(name, "");
    if (!affix) return affix.error();
    if (!affix->empty()) return NotSupported(*model, name);
  }
  if (const auto dropout = model->Find("dropout")) {
    if (!dropout->value().is_number() || dropout->value().get<double>() != 0.0) {
      return NotSupported(*dropout, "dropout");
    }
  }
  auto unk_token = model->StringOr("unk_token", "");
  if (!unk_token) return unk_token.error();
  out->bpe.unk_token = std::move(*unk_token);
  for (const auto& [name, target] :
       {std::pair{"fuse_unk", &out->bpe.fuse_unk}, std::pair{"byte_fallback", &out->bpe.byte_fallback},
        std::pair{"ignore_merges", &out->bpe.ignore_merges}}) {
    const auto value = model->BoolOr(name, false);
    if (!value) return value.error();
    *target = *value;
  }
  if (Status read = ReadVocab(*model, out); !read) return read;
  return ReadMerges(*model, out);
}

Status ReadAddedTokens(const JsonField& root, TokenizerJson* out) {
  const auto list = root.Find("added_tokens");
  if (!list) return {};
  auto tokens = ReadAddedTokenList(*list);
  if (!tokens) return tokens.error();
  std::unordered_map<std::string_view, size_t> id_of;
  for (size_t id = 0; id < out->vocab.size(); ++id) id_of.emplace(out->vocab[id], id);
  for (AddedToken& token : *tokens) {
    const auto id = static_cast<size_t>(token.id);
    const std::string named = "\"" + token.content + "\" with id " + std::to_string(token.id);
    const auto known = id_of.find(token.content);
    if (known != id_of.end() && known->second != id) {
      return list->Fail(named + " has the id " + std::to_string(known->second) + " in model.vocab");
    }
    if (known == id_of.end() && id < out->vocab.size() && !out->vocab[id].empty()) {
      return list->Fail(named + " does not agree with model.vocab: \"" + out->vocab[id] + "\"");
    }
    if (id >= out->vocab.size() + tokens->size() + kMaxUnusedIds) {
      return list->Fail(named + " leaves a gap after the vocabulary");
    }
  }
  out->added_tokens = std::move(*tokens);
  return {};
}

Status ReadNormalizer(const JsonField& root, TokenizerJson* out) {
  const auto field = root.Find("normalizer");
  if (!field) return {};
  auto normalizer = Normalizer::Read(*field);
  if (!normalizer) return normalizer.error();
  out->normalizer = std::move(*normalizer);
  return {};
}

Status ReadPreTokenizer(const JsonField& root, TokenizerJson* out) {
  const auto field = root.Find("pre_tokenizer");
  if (!field) return {};
  auto pre_tokenizer = PreTokenizer::Read(*field);
  if (!pre_tokenizer) return pre_tokenizer.error();
  // Whether a word is the first is a question of the text before it was normalised.
  if (pre_tokenizer->HasMetaspaceFirst() && !out->normalizer.empty()) {
    return NotSupported(*field, "prepend_scheme \"first\" next to a normalizer");
  }
  out->pre_tokenizer = std::move(*pre_tokenizer);
  return {};
}

Status ReadDecoder(const JsonField& root, TokenizerJson* out) {
  auto decoder = TokenDecoder::Read(root.Find("decoder"));
  if (!decoder) return decoder.error();
  out->decoder = std::move(*decoder);
  return {};
}

// The name of a special token that stands in a template; empty: it is no special token.
Result<std::string> SpecialTokenOf(const JsonField& part) {
  const auto special = part.Find("SpecialToken");
  if (!special) return std::string();
  const auto id = special->Get("id");
  if (!id) return id.error();
  return id->String();
}

// Only the token that stands before the text matters here: Encode puts it there when asked to. It never puts
// an end after a text, which is there to be continued.
Status ReadTemplate(const JsonField& step, TokenizerJson* out) {
  const auto single = step.Get("single");
  if (!single) return single.error();
  const auto parts = single->Elements();
  if (!parts) return parts.error();
  if (parts->empty()) return single->Fail("is empty");
  auto first = SpecialTokenOf((*parts)[0]);
  if (!first) return first.error();
  if (!first->empty() && parts->size() > 1) {
    const auto second = SpecialTokenOf((*parts)[1]);
    if (!second) return second.error();
    if (!second->empty()) return NotSupported(*single, "more than one token before the text");
  }
  out->template_bos = std::move(*first);
  return {};
}

// RobertaProcessing and BertProcessing: "cls" is a token and its id.
Status ReadClassToken(const JsonField& step, TokenizerJson* out) {
  const auto field = step.Get("cls");
  if (!field) return field.error();
  const auto pair = field->Elements();
  if (!pair) return pair.error();
  if (pair->size() != 2) return field->Fail("must be a token and its id");
  auto name = (*pair)[0].String();
  if (!name) return name.error();
  out->template_bos = std::move(*name);
  return {};
}

Status ReadPostProcessor(const JsonField& root, TokenizerJson* out) {
  const auto post_processor = root.Find("post_processor");
  if (!post_processor) return {};
  const auto steps = Steps(*post_processor, "processors");
  if (!steps) return steps.error();
  bool has_template = false;
  for (const JsonField& step : *steps) {
    const auto type = TypeOf(step);
    if (!type) return type.error();
    if (*type == "ByteLevel") continue;  // Moves offsets into the text, which are not used here.
    const bool is_template = *type == "TemplateProcessing";
    if (!is_template && *type != "RobertaProcessing" && *type != "BertProcessing") {
      return NotSupported(step, "type \"" + *type + "\"");
    }
    if (has_template) return NotSupported(step, "a second " + *type);
    has_template = true;
    if (Status read = is_template ? ReadTemplate(step, out) : ReadClassToken(step, out); !read) return read;
  }
  return {};
}

}  // namespace

Result<TokenizerJson> ReadTokenizerJson(const std::filesystem::path& file) {
  const auto document = ReadJsonFile(file);
  if (!document) return document.error();
  const JsonField root(*document, file.string());
  if (!root.is_object()) return root.Fail("must be an object");
  TokenizerJson out;
  // Truncation and padding are settings of batches; a served text is neither cut nor filled.
  for (const auto read :
       {ReadNormalizer, ReadPreTokenizer, ReadModel, ReadAddedTokens, ReadDecoder, ReadPostProcessor}) {
    if (Status status = read(root, &out); !status) return status.error();
  }
  return out;
}

}  // namespace espalier
