#include "model/tokenizer/token_decoder.h"

#include <algorithm>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_steps.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr size_t kMaxTokenBytes = size_t{1} << 20;

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
  // "+1" is a number to the package.
  if (token[3] == '+' && low >= 0) return low;
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

Result<StripStartStep> ReadStrip(const JsonField& step) {
  auto content = ReadCharacter(step, "content");
  if (!content) return content.error();
  StripStartStep strip{std::move(*content), 0};
  for (const auto& [name, max] : {std::pair{"start", int64_t{1} << 30}, std::pair{"stop", int64_t{0}}}) {
    const auto count_field = step.Get(name);
    if (!count_field) return count_field.error();
    const auto count = count_field->Integer();
    if (!count) return count.error();
    // What stands at the end of a text cannot be taken back from a stream.
    if (*count < 0 || *count > max) return NotSupported(*count_field, std::to_string(*count));
    if (max > 0) strip.count = static_cast<int32_t>(*count);
  }
  return strip;
}

Result<MarkToSpaceStep> ReadMarkToSpace(const JsonField& step) {
  auto mark = ReadCharacter(step, "replacement");
  if (!mark) return mark.error();
  const auto scheme = step.StringOr("prepend_scheme", "always");
  if (!scheme) return scheme.error();
  const auto add_prefix_space = step.BoolOr("add_prefix_space", true);
  if (!add_prefix_space) return add_prefix_space.error();
  return MarkToSpaceStep{std::move(*mark), *scheme != "never" && *add_prefix_space};
}

Status RunStep(const MarkToSpaceStep& step, bool is_first, std::string* text) {
  *text = ReplaceAll(*text, step.mark, is_first && step.drops_first ? "" : " ");
  return {};
}

Status RunStep(const StripStartStep& step, bool /*is_first*/, std::string* text) {
  size_t start = 0;
  for (int32_t i = 0; i < step.count && std::string_view(*text).substr(start).starts_with(step.content);
       ++i) {
    start += step.content.size();
  }
  text->erase(0, start);
  return {};
}

template <typename Replace>
Status RunStep(const Replace& step, bool /*is_first*/, std::string* text) {
  std::string out;
  if (Status replaced = AppendReplaced(*text, step, kMaxTokenBytes, &out); !replaced) return replaced;
  *text = std::move(out);
  return {};
}

}  // namespace

Result<TokenDecoder> TokenDecoder::Read(const std::optional<JsonField>& field) {
  TokenDecoder decoder;
  if (!field) {
    decoder.joining_ = Joining::kSpaced;
    decoder.leading_strip_ = {1, true, " "};
    return decoder;
  }
  const auto steps = Steps(*field, "decoders");
  if (!steps) return steps.error();
  enum Stage { kTokens, kBytes, kFused, kStripped };
  Stage stage = kTokens;
  for (const JsonField& step : *steps) {
    const auto type = TypeOf(step);
    if (!type) return type.error();
    if (*type == "Replace" && stage == kTokens) {
      auto replace = ReadReplace(step);
      if (!replace) return replace.error();
      std::visit([&](auto& read) { decoder.steps_.push_back(std::move(read)); }, *replace);
    } else if (*type == "Metaspace" && stage == kTokens) {
      auto metaspace = ReadMarkToSpace(step);
      if (!metaspace) return metaspace.error();
      decoder.steps_.push_back(std::move(*metaspace));
    } else if (*type == "ByteFallback" && stage == kTokens) {
      decoder.joining_ = Joining::kByteFallback;
      stage = kBytes;
    } else if (*type == "ByteLevel" && stage == kTokens) {
      decoder.joining_ = Joining::kByteLevel;
      stage = kFused;
    } else if (*type == "Fuse") {
      stage = std::max(stage, kFused);
    } else if (*type == "Strip" && (stage == kTokens || stage == kFused)) {
      auto strip = ReadStrip(step);
      if (!strip) return strip.error();
      if (stage == kTokens) {
        decoder.steps_.push_back(std::move(*strip));
      } else {
        decoder.leading_strip_ = {strip->count, false, std::move(strip->content)};
        stage = kStripped;
      }
    } else {
      return NotSupported(step, "type \"" + *type + "\" at this place");
    }
  }
  return decoder;
}

Result<TokenInfo> TokenDecoder::Info(std::string_view form, bool is_first) const {
  TokenInfo info;
  info.text = form;
  info.strippable = true;
  for (const Step& step : steps_) {
    const Status done =
        std::visit([&](const auto& read) { return RunStep(read, is_first, &info.text); }, step);
    if (!done) return done.error();
  }
  if (joining_ == Joining::kByteLevel) {
    info.kind = TokenInfo::Kind::kBytes;
    info.text = CharactersToBytes(info.text);
  } else if (joining_ == Joining::kSpaced) {
    info.text.insert(0, 1, ' ');
  } else if (const int byte = joining_ == Joining::kByteFallback ? ByteOf(info.text) : -1; byte >= 0) {
    info.kind = TokenInfo::Kind::kByte;
    info.text.assign(1, static_cast<char>(static_cast<uint8_t>(byte)));
  }
  return info;
}

bool TokenDecoder::FirstDiffers() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* metaspace = std::get_if<MarkToSpaceStep>(&step);
    return metaspace != nullptr && metaspace->drops_first;
  });
}

}  // namespace espalier
