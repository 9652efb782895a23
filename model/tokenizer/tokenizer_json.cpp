#include "model/tokenizer/tokenizer_json.h"

#include <algorithm>

#include "model/tokenizer/json_field.h"
#include "model/tokenizer/tokenizer_config.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

Result<std::string> TypeOf(const JsonField& field) {
  const auto type = field.Get("type");
  if (!type) return type.error();
  return type->String();
}

Error NotSupported(const JsonField& field, const std::string& what) {
  return field.Fail(what + " is not supported");
}

// The steps of a component that is one step or a Sequence of them under `list_name`.
Result<std::vector<JsonField>> Steps(const JsonField& component, const std::string& list_name) {
  const auto type = TypeOf(component);
  if (!type) return type.error();
  if (*type != "Sequence") return std::vector<JsonField>{component};
  const auto list = component.Get(list_name);
  if (!list) return list.error();
  return list->Elements();
}

Result<ReplaceStep> ReadReplace(const JsonField& step) {
  const auto pattern_field = step.Get("pattern");
  if (!pattern_field) return pattern_field.error();
  if (pattern_field->Find("Regex")) return NotSupported(*pattern_field, "Regex");
  const auto literal = pattern_field->Get("String");
  if (!literal) return literal.error();
  auto pattern = literal->String();
  if (!pattern) return pattern.error();
  if (pattern->empty()) return literal->Fail("is empty");
  const auto content_field = step.Get("content");
  if (!content_field) return content_field.error();
  auto content = content_field->String();
  if (!content) return content.error();
  return ReplaceStep{std::move(*pattern), std::move(*content)};
}

Status ReadVocab(const JsonField& model, TokenizerJson* out) {
  const auto vocab = model.Get("vocab");
  if (!vocab) return vocab.error();
  if (!vocab->is_object()) return vocab->Fail("must be an object");
  const size_t size = vocab->value().size();
  if (size == 0) return vocab->Fail("is empty");
  out->vocab.resize(size);
  std::vector<bool> seen(size, false);
  for (const auto& [token, value] : vocab->value().items()) {
    if (!value.is_number_unsigned()) return vocab->Fail("the id of \"" + token + "\" is no number");
    const auto id = value.get<uint64_t>();
    if (id >= size) {
      return vocab->Fail("the id " + std::to_string(id) + " of \"" + token + "\" leaves a gap: there are " +
                         std::to_string(size) + " tokens");
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
  if (*type != "BPE") return NotSupported(*model, "type \"" + *type + "\"");
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
  const auto entries = list->Elements();
  if (!entries) return entries.error();
  for (const JsonField& entry : *entries) {
    auto token = ReadAddedToken(entry);
    if (!token) return token.error();
    const auto id_field = entry.Get("id");
    if (!id_field) return id_field.error();
    const auto id = id_field->Integer();
    if (!id) return id.error();
    if (*id < 0 || *id >= static_cast<int64_t>(out->vocab.size() + entries->size())) {
      return id_field->Fail(std::to_string(*id) + " leaves a gap after the vocabulary");
    }
    token->id = static_cast<int32_t>(*id);
    out->added_tokens.push_back(std::move(*token));
  }
  std::stable_sort(out->added_tokens.begin(), out->added_tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });

  auto next_id = static_cast<int32_t>(out->vocab.size());
  for (const AddedToken& token : out->added_tokens) {
    const auto id = static_cast<size_t>(token.id);
    const std::string named = "\"" + token.content + "\" with id " + std::to_string(token.id);
    if (id < out->vocab.size()) {
      if (out->vocab[id] != token.content) {
        return list->Fail(named + " does not agree with model.vocab: \"" + out->vocab[id] + "\"");
      }
    } else if (token.id != next_id++) {
      return list->Fail(named + " leaves a gap or stands twice");
    } else if (std::find(out->vocab.begin(), out->vocab.end(), token.content) != out->vocab.end()) {
      return list->Fail(named + " has another id in model.vocab");
    }
  }
  return {};
}

Status ReadNormalizer(const JsonField& root, TokenizerJson* out) {
  const auto normalizer = root.Find("normalizer");
  if (!normalizer) return {};
  const auto steps = Steps(*normalizer, "normalizers");
  if (!steps) return steps.error();
  for (const JsonField& step : *steps) {
    const auto type = TypeOf(step);
    if (!type) return type.error();
    if (*type == "Prepend") {
      const auto prepend = step.Get("prepend");
      if (!prepend) return prepend.error();
      auto content = prepend->String();
      if (!content) return content.error();
      out->normalizer.push_back({true, "", std::move(*content)});
    } else if (*type == "Replace") {
      auto replace = ReadReplace(step);
      if (!replace) return replace.error();
      out->normalizer.push_back({false, replace->pattern, replace->content});
    } else {
      return NotSupported(step, "type \"" + *type + "\"");
    }
  }
  return {};
}

Result<SplitPattern> ReadSplit(const JsonField& step) {
  const auto behavior = step.StringOr("behavior", "");
  if (!behavior) return behavior.error();
  if (*behavior != "Isolated") return NotSupported(step, "behavior \"" + *behavior + "\"");
  const auto invert = step.BoolOr("invert", false);
  if (!invert) return invert.error();
  if (*invert) return NotSupported(step, "invert");
  const auto pattern_field = step.Get("pattern");
  if (!pattern_field) return pattern_field.error();
  if (pattern_field->Find("String")) return NotSupported(*pattern_field, "String");
  const auto regex = pattern_field->Get("Regex");
  if (!regex) return regex.error();
  const auto pattern = regex->String();
  if (!pattern) return pattern.error();
  auto split = SplitPattern::Compile(*pattern);
  if (!split) return regex->Fail(split.error().message);
  return split;
}

// ByteLevel alone, or a Sequence of Split and a ByteLevel without a pattern of its own.
Status ReadByteLevel(const JsonField& pre_tokenizer, TokenizerJson* out) {
  if (!out->normalizer.empty()) return NotSupported(pre_tokenizer, "ByteLevel beside a normalizer");
  const auto steps = Steps(pre_tokenizer, "pretokenizers");
  if (!steps) return steps.error();
  ByteLevel byte_level;
  for (size_t i = 0; i < steps->size(); ++i) {
    const JsonField& step = (*steps)[i];
    const auto type = TypeOf(step);
    if (!type) return type.error();
    const bool is_last = i + 1 == steps->size();
    if (*type == "Split" && i == 0 && !is_last) {
      auto split = ReadSplit(step);
      if (!split) return split.error();
      byte_level.split = std::move(*split);
      continue;
    }
    if (*type != "ByteLevel" || !is_last) {
      return NotSupported(step, "type \"" + *type + "\" at this place");
    }
    const auto add_prefix_space = step.BoolOr("add_prefix_space", true);
    if (!add_prefix_space) return add_prefix_space.error();
    if (*add_prefix_space) return NotSupported(step, "add_prefix_space");
    const auto use_regex = step.BoolOr("use_regex", true);
    if (!use_regex) return use_regex.error();
    if (*use_regex && byte_level.split) return NotSupported(step, "use_regex after Split");
    if (*use_regex) {
      auto split = SplitPattern::Compile(SplitPattern::kGpt2);
      if (!split) return step.Fail(split.error().message);
      byte_level.split = std::move(*split);
    }
  }
  if (steps->empty()) return pre_tokenizer.Fail("is empty");
  out->byte_level = std::move(byte_level);
  return {};
}

Status ReadPreTokenizer(const JsonField& root, TokenizerJson* out) {
  const auto pre_tokenizer = root.Find("pre_tokenizer");
  if (!pre_tokenizer) return {};
  const auto type = TypeOf(*pre_tokenizer);
  if (!type) return type.error();
  if (*type == "ByteLevel" || *type == "Sequence") return ReadByteLevel(*pre_tokenizer, out);
  if (*type != "Metaspace") return NotSupported(*pre_tokenizer, "type \"" + *type + "\"");

  Metaspace metaspace;
  const auto replacement_field = pre_tokenizer->Get("replacement");
  if (!replacement_field) return replacement_field.error();
  auto replacement = replacement_field->String();
  if (!replacement) return replacement.error();
  if (replacement->empty() || ReadUtf8(*replacement).size_bytes != replacement->size()) {
    return replacement_field->Fail("must be one character");
  }
  metaspace.replacement = std::move(*replacement);

  const auto scheme = pre_tokenizer->StringOr("prepend_scheme", "always");
  if (!scheme) return scheme.error();
  const auto add_prefix_space = pre_tokenizer->BoolOr("add_prefix_space", true);
  if (!add_prefix_space) return add_prefix_space.error();
  if (*scheme == "never" || !*add_prefix_space) {
    metaspace.prepend = Metaspace::Prepend::kNever;
  } else if (*scheme == "first") {
    metaspace.prepend = Metaspace::Prepend::kFirst;
  } else if (*scheme != "always") {
    return NotSupported(*pre_tokenizer, "prepend_scheme \"" + *scheme + "\"");
  }
  const auto split = pre_tokenizer->BoolOr("split", true);
  if (!split) return split.error();
  metaspace.split = *split;

  const bool prepends_twice =
      metaspace.prepend != Metaspace::Prepend::kNever &&
      std::any_of(out->normalizer.begin(), out->normalizer.end(), [](const auto& s) { return s.prepend; });
  if (prepends_twice) return NotSupported(*pre_tokenizer, "a prefix by Metaspace beside one by Prepend");
  out->metaspace = std::move(metaspace);
  return {};
}

Status ReadStrip(const JsonField& step, TokenizerJson* out) {
  const auto content_field = step.Get("content");
  if (!content_field) return content_field.error();
  auto content = content_field->String();
  if (!content) return content.error();
  if (content->empty() || ReadUtf8(*content).size_bytes != content->size()) {
    return content_field->Fail("must be one character");
  }
  for (const auto& [name, most] : {std::pair{"start", int64_t{1} << 30}, std::pair{"stop", int64_t{0}}}) {
    const auto count_field = step.Get(name);
    if (!count_field) return count_field.error();
    const auto count = count_field->Integer();
    if (!count) return count.error();
    // What stands at the end of a text cannot be taken back from a stream.
    if (*count < 0 || *count > most) return NotSupported(*count_field, std::to_string(*count));
    if (most > 0) out->leading_strip.count = static_cast<int32_t>(*count);
  }
  out->leading_strip.content = std::move(*content);
  return {};
}

// ByteLevel alone for a byte-level tokenizer. Otherwise takes Replace..., ByteFallback, Fuse, Strip in this
// order, each but Strip (which needs Fuse) with or without the others.
Status ReadDecoder(const JsonField& root, TokenizerJson* out) {
  const auto decoder = root.Get("decoder");
  if (!decoder) return decoder.error();
  const auto steps = Steps(*decoder, "decoders");
  if (!steps) return steps.error();
  if (out->byte_level) {
    const auto type = TypeOf(*decoder);
    if (!type) return type.error();
    if (*type == "ByteLevel") return {};
    return NotSupported(*decoder, "type \"" + *type + "\" beside a ByteLevel pre_tokenizer");
  }
  enum Stage { kReplaces, kBytes, kFused, kStripped };
  Stage stage = kReplaces;
  for (const JsonField& step : *steps) {
    const auto type = TypeOf(step);
    if (!type) return type.error();
    if (*type == "Replace" && stage == kReplaces) {
      auto replace = ReadReplace(step);
      if (!replace) return replace.error();
      out->decoder_replaces.push_back(std::move(*replace));
    } else if (*type == "ByteFallback" && stage == kReplaces) {
      out->decoder_byte_fallback = true;
      stage = kBytes;
    } else if (*type == "Fuse" && stage < kFused) {
      stage = kFused;
    } else if (*type == "Strip" && stage == kFused) {
      if (Status read = ReadStrip(step, out); !read) return read;
      stage = kStripped;
    } else {
      return NotSupported(step, "type \"" + *type + "\" at this place");
    }
  }
  return {};
}

// Only the token that stands before the text matters here: Encode puts it there when asked to.
Status ReadTemplate(const JsonField& step, TokenizerJson* out) {
  const auto single = step.Get("single");
  if (!single) return single.error();
  const auto parts = single->Elements();
  if (!parts) return parts.error();
  if (parts->empty()) return single->Fail("is empty");
  const auto first = (*parts)[0].Find("SpecialToken");
  if (!first) return {};
  const auto id = first->Get("id");
  if (!id) return id.error();
  auto name = id->String();
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
    if (*type != "TemplateProcessing") return NotSupported(step, "type \"" + *type + "\"");
    if (has_template) return NotSupported(step, "a second TemplateProcessing");
    has_template = true;
    if (Status read = ReadTemplate(step, out); !read) return read;
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
