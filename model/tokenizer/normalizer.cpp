#include "model/tokenizer/normalizer.h"

#include <algorithm>
#include <optional>

#include "model/tokenizer/json_steps.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr size_t kMaxGrowth = 16;
constexpr size_t kMinLimitBytes = 4096;

Error GrowsTooLong(size_t max_bytes) {
  return InvalidArgument("text",
                         "becomes longer than " + std::to_string(max_bytes) + " bytes when normalised");
}

// Calls what `std::visit` needs for one alternative each.
template <typename... Calls>
struct Overloaded : Calls... {
  using Calls::operator()...;
};
template <typename... Calls>
Overloaded(Calls...) -> Overloaded<Calls...>;

std::optional<NormalizationForm> FormOf(const std::string& type) {
  if (type == "NFD") return NormalizationForm::kNfd;
  if (type == "NFKD") return NormalizationForm::kNfkd;
  if (type == "NFC") return NormalizationForm::kNfc;
  if (type == "NFKC") return NormalizationForm::kNfkc;
  return std::nullopt;
}

Result<StripSpaceStep> ReadStrip(const JsonField& step) {
  StripSpaceStep strip{};
  for (const auto& [name, target] :
       {std::pair{"strip_left", &strip.left}, std::pair{"strip_right", &strip.right}}) {
    const auto field = step.Get(name);
    if (!field) return field.error();
    const auto value = field->Bool();
    if (!value) return value.error();
    *target = *value;
  }
  return strip;
}

}  // namespace

Result<std::variant<ReplaceStep, ReplacePatternStep>> ReadReplace(const JsonField& step) {
  using Either = std::variant<ReplaceStep, ReplacePatternStep>;
  const auto pattern_field = step.Get("pattern");
  if (!pattern_field) return pattern_field.error();
  const auto content_field = step.Get("content");
  if (!content_field) return content_field.error();
  auto content = content_field->String();
  if (!content) return content.error();
  if (const auto regex = pattern_field->Find("Regex")) {
    const auto text = regex->String();
    if (!text) return text.error();
    auto pattern = SplitPattern::Compile(*text);
    if (!pattern) return regex->Fail(pattern.error().message);
    return Either(ReplacePatternStep{std::move(*pattern), std::move(*content)});
  }
  const auto literal = pattern_field->Get("String");
  if (!literal) return literal.error();
  auto text = literal->String();
  if (!text) return text.error();
  if (text->empty()) return literal->Fail("is empty");
  return Either(ReplaceStep{std::move(*text), std::move(*content)});
}

Status AppendReplaced(std::string_view text, const ReplaceStep& step, size_t max_bytes, std::string* out) {
  while (true) {
    const size_t at = text.find(step.pattern);
    out->append(text.substr(0, at));
    if (out->size() > max_bytes) return GrowsTooLong(max_bytes);
    if (at == std::string_view::npos) return {};
    out->append(step.content);
    text.remove_prefix(at + step.pattern.size());
  }
}

Status AppendReplaced(std::string_view text, const ReplacePatternStep& step, size_t max_bytes,
                      std::string* out) {
  const Status found = step.pattern.ForEach(text, [&](std::string_view part, bool is_match) {
    if (out->size() <= max_bytes) out->append(is_match ? step.content : part);
  });
  if (!found) return found;
  return out->size() > max_bytes ? Status(GrowsTooLong(max_bytes)) : Status();
}

Result<Normalizer> Normalizer::Read(const JsonField& field) {
  const auto steps = Steps(field, "normalizers");
  if (!steps) return steps.error();
  Normalizer normalizer;
  for (const JsonField& step : *steps) {
    const auto type = TypeOf(step);
    if (!type) return type.error();
    if (*type == "Prepend") {
      const auto prepend = step.Get("prepend");
      if (!prepend) return prepend.error();
      auto content = prepend->String();
      if (!content) return content.error();
      normalizer.steps_.push_back(PrependStep{std::move(*content)});
    } else if (*type == "Replace") {
      auto replace = ReadReplace(step);
      if (!replace) return replace.error();
      std::visit([&](auto& read) { normalizer.steps_.push_back(std::move(read)); }, *replace);
    } else if (const auto form = FormOf(*type)) {
      normalizer.steps_.push_back(FormStep{*form});
    } else if (*type == "Lowercase") {
      normalizer.steps_.push_back(LowercaseStep{});
    } else if (*type == "Strip") {
      const auto strip = ReadStrip(step);
      if (!strip) return strip.error();
      normalizer.steps_.push_back(*strip);
    } else {
      return NotSupported(step, "type \"" + *type + "\"");
    }
  }
  return normalizer;
}

Result<std::string> Normalizer::Run(std::string_view text, bool at_start) const {
  const size_t max_bytes = std::max(kMaxGrowth * text.size(), kMinLimitBytes);
  std::string now(text);
  for (const Step& step : steps_) {
    const auto replace = [&](const auto& read) -> Status {
      std::string out;
      if (Status replaced = AppendReplaced(now, read, max_bytes, &out); !replaced) return replaced;
      now = std::move(out);
      return {};
    };
    const Status done =
        std::visit(Overloaded{[&](const PrependStep& prepend) -> Status {
                                if (at_start && !now.empty()) now.insert(0, prepend.content);
                                return {};
                              },
                              [&](const ReplaceStep& read) -> Status { return replace(read); },
                              [&](const ReplacePatternStep& read) -> Status { return replace(read); },
                              [&](const FormStep& form) -> Status {
                                now = NormalizeUnicode(now, form.form);
                                return {};
                              },
                              [&](const LowercaseStep&) -> Status {
                                now = ToLowerCase(now);
                                return {};
                              },
                              [&](const StripSpaceStep& strip) -> Status {
                                if (strip.right) now.resize(TrailingSpaceStart(now));
                                if (strip.left) now.erase(0, LeadingSpaceBytes(now));
                                return {};
                              }},
                   step);
    if (!done) return done.error();
    if (now.size() > max_bytes) return GrowsTooLong(max_bytes);
  }
  return now;
}

}  // namespace espalier
