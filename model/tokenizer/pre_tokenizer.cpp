#include "model/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/json_steps.h"
#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

Result<SplitBehavior> ReadBehavior(const JsonField& step, const std::string& otherwise) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {
      {{"Removed", SplitBehavior::kRemoved},
       {"Isolated", SplitBehavior::kIsolated},
       {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
       {"MergedWithNext", SplitBehavior::kMergedWithNext},
       {"Contiguous", SplitBehavior::kContiguous}}};
  const auto name = step.StringOr("behavior", otherwise);
  if (!name) return name.error();
  for (const auto& [known, behavior] : kNames) {
    if (known == *name) return behavior;
  }
  return NotSupported(step, "behavior \"" + *name + "\"");
}

Result<SplitStep> ReadSplit(const JsonField& step) {
  const auto behavior = ReadBehavior(step, "");
  if (!behavior) return behavior.error();
  const auto invert = step.BoolOr("invert", false);
  if (!invert) return invert.error();
  const auto pattern = step.Get("pattern");
  if (!pattern) return pattern.error();
  const bool is_literal = pattern->Find("String").has_value();
  const auto field = pattern->Get(is_literal ? "String" : "Regex");
  if (!field) return field.error();
  const auto text = field->String();
  if (!text) return text.error();
  if (text->empty()) return field->Fail("is empty");
  if (is_literal) return SplitStep{SplitPattern::Literal(*text), *behavior, *invert};
  auto compiled = SplitPattern::Compile(*text);
  if (!compiled) return field->Fail(compiled.error().message);
  return SplitStep{std::move(*compiled), *behavior, *invert};
}

Result<MetaspaceStep> ReadMetaspace(const JsonField& step) {
  auto replacement = ReadCharacter(step, "replacement");
  if (!replacement) return replacement.error();
  const auto scheme = step.StringOr("prepend_scheme", "always");
  if (!scheme) return scheme.error();
  const auto add_prefix_space = step.BoolOr("add_prefix_space", true);
  if (!add_prefix_space) return add_prefix_space.error();
  auto prepend = MetaspaceStep::Prepend::kAlways;
  if (*scheme == "never" || !*add_prefix_space) {
    prepend = MetaspaceStep::Prepend::kNever;
  } else if (*scheme == "first") {
    prepend = MetaspaceStep::Prepend::kFirst;
  } else if (*scheme != "always") {
    return NotSupported(step, "prepend_scheme \"" + *scheme + "\"");
  }
  const auto split = step.BoolOr("split", true);
  if (!split) return split.error();
  return MetaspaceStep{std::move(*replacement), prepend, *split};
}

Result<ByteLevelStep> ReadByteLevel(const JsonField& step) {
  ByteLevelStep byte_level;
  const auto add_prefix_space = step.BoolOr("add_prefix_space", true);
  if (!add_prefix_space) return add_prefix_space.error();
  byte_level.add_prefix_space = *add_prefix_space;
  const auto use_regex = step.BoolOr("use_regex", true);
  if (!use_regex) return use_regex.error();
  if (!*use_regex) return byte_level;
  auto split = SplitPattern::Compile(SplitPattern::kGpt2);
  if (!split) return step.Fail(split.error().message);
  byte_level.split = std::move(*split);
  return byte_level;
}

// Cuts `text` at the matches of `step`. A part waits in `pending` until it is known what it is merged with.
class Splitter {
 public:
  Splitter(const SplitStep& step, std::vector<std::string_view>* parts) : step_(step), parts_(parts) {}

  Status Run(std::string_view text) {
    const Status split = step_.pattern.ForEach(
        text, [this](std::string_view part, bool is_match) { Take(part, is_match != step_.invert); });
    GiveOut();
    return split;
  }

 private:
  void Take(std::string_view part, bool is_match) {
    if (step_.behavior == SplitBehavior::kRemoved && is_match) return;
    if (!pending_.empty() && Joins(is_match)) {
      pending_ = {pending_.data(), pending_.size() + part.size()};
    } else {
      GiveOut();
      pending_ = part;
    }
    pending_is_match_ = is_match;
  }

  // Whether a part belongs to the one that waits, which stands right before it.
  bool Joins(bool is_match) const {
    switch (step_.behavior) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated:
        return false;
      case SplitBehavior::kMergedWithPrevious:
        return is_match && !pending_is_match_;
      case SplitBehavior::kMergedWithNext:
        return !is_match && pending_is_match_;
      case SplitBehavior::kContiguous:
        return is_match == pending_is_match_;
    }
    return false;
  }

  void GiveOut() {
    if (!pending_.empty()) parts_->push_back(pending_);
    pending_ = {};
  }

  const SplitStep& step_;
  std::vector<std::string_view>* parts_;
  std::string_view pending_;
  bool pending_is_match_ = false;
};

// Words that are written anew, one after another.
class Writer {
 public:
  explicit Writer(size_t expected_bytes) { text_.reserve(expected_bytes); }
  std::string* text() { return &text_; }
  // What was written since the last word is one.
  void EndWord() {
    if (text_.size() > (ends_.empty() ? 0 : ends_.back())) ends_.push_back(text_.size());
  }
  void MoveTo(Words* words) {
    words->written = std::move(text_);
    words->parts.clear();
    words->parts.reserve(ends_.size());
    size_t start = 0;
    for (const size_t end : ends_) {
      words->parts.push_back(std::string_view(words->written).substr(start, end - start));
      start = end;
    }
  }

 private:
  std::string text_;
  std::vector<size_t> ends_;
};

size_t TotalBytes(const std::vector<std::string_view>& parts) {
  size_t bytes = 0;
  for (const std::string_view part : parts) bytes += part.size();
  return bytes;
}

// Where a step is run.
struct Place {
  bool is_first;  // The first word is the start of all that is encoded.
  bool at_start;
  bool is_last;  // No step follows.
};

Status RunStep(const SplitStep& step, const Place& /*place*/, Words* words) {
  std::vector<std::string_view> parts;
  parts.reserve(words->parts.size());
  for (const std::string_view part : words->parts) {
    if (Status split = Splitter(step, &parts).Run(part); !split) return split;
  }
  words->parts = std::move(parts);
  return {};
}

// Bytes before the first space or `mark`.
size_t PlainBytes(std::string_view text, std::string_view mark) {
  const std::array<char, 2> starts = {' ', mark[0]};
  size_t at = 0;
  while (at < text.size()) {
    at = std::min(text.find_first_of(starts.data(), at, starts.size()), text.size());
    if (at == text.size() || text[at] == ' ' || text.substr(at).starts_with(mark)) break;
    ++at;
  }
  return at;
}

Status RunStep(const MetaspaceStep& step, const Place& place, Words* words) {
  Writer writer(TotalBytes(words->parts) * 3 / 2);
  std::string& out = *writer.text();
  bool prepends = place.at_start && (step.prepend == MetaspaceStep::Prepend::kAlways ||
                                     (step.prepend == MetaspaceStep::Prepend::kFirst && place.is_first));
  for (std::string_view rest : words->parts) {
    if (prepends && !rest.starts_with(' ') && !rest.starts_with(step.replacement)) out += step.replacement;
    if (step.prepend == MetaspaceStep::Prepend::kFirst) prepends = false;
    while (!rest.empty()) {
      const size_t plain = PlainBytes(rest, step.replacement);
      out += rest.substr(0, plain);
      rest.remove_prefix(plain);
      if (rest.empty()) break;
      if (step.split) writer.EndWord();
      rest.remove_prefix(rest[0] == ' ' ? 1 : step.replacement.size());
      out += step.replacement;
    }
    writer.EndWord();
  }
  writer.MoveTo(words);
  return {};
}

Status RunStep(const ByteLevelStep& step, const Place& place, Words* words) {
  const bool adds_prefix = place.at_start && step.add_prefix_space;
  if (place.is_last && !adds_prefix) {
    // Words are written one by one, shortly before they are encoded, while they are in the cache.
    words->are_bytes = true;
    if (!step.split) return {};
    return RunStep(SplitStep{*step.split, SplitBehavior::kIsolated, false}, place, words);
  }
  Writer writer(TotalBytes(words->parts) * 5 / 4);
  std::string with_space;
  for (std::string_view part : words->parts) {
    if (adds_prefix && !part.starts_with(' ')) {
      with_space.assign(" ").append(part);
      part = with_space;
    }
    const auto write = [&writer](std::string_view word, bool) {
      AppendBytesAsCharacters(word, writer.text());
      writer.EndWord();
    };
    if (!step.split) {
      write(part, false);
    } else if (Status split = step.split->ForEach(part, write); !split) {
      return split;
    }
  }
  writer.MoveTo(words);
  return {};
}

template <typename Step>
Result<PreTokenizerStep> AnyStep(Result<Step> step) {
  if (!step) return step.error();
  return PreTokenizerStep(std::move(*step));
}

PreTokenizerStep CutAt(SplitPattern pattern, SplitBehavior behavior, bool invert = false) {
  return SplitStep{std::move(pattern), behavior, invert};
}

Result<PreTokenizerStep> ReadStep(const JsonField& step) {
  using Class = SplitPattern::Class;
  const auto type = TypeOf(step);
  if (!type) return type.error();
  if (*type == "Split") return AnyStep(ReadSplit(step));
  if (*type == "Metaspace") return AnyStep(ReadMetaspace(step));
  if (*type == "ByteLevel") return AnyStep(ReadByteLevel(step));
  if (*type == "Whitespace") return CutAt(SplitPattern::Words(), SplitBehavior::kRemoved, /*invert=*/true);
  if (*type == "WhitespaceSplit") {
    return CutAt(SplitPattern::Of(Class::kWhiteSpace), SplitBehavior::kRemoved);
  }
  if (*type == "Digits") {
    const auto each = step.BoolOr("individual_digits", false);
    if (!each) return each.error();
    return CutAt(SplitPattern::Of(Class::kNumeric),
                 *each ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (*type == "Punctuation") {
    const auto behavior = ReadBehavior(step, "Isolated");
    if (!behavior) return behavior.error();
    return CutAt(SplitPattern::Of(Class::kPunctuation), *behavior);
  }
  if (*type == "CharDelimiterSplit") {
    const auto delimiter = ReadCharacter(step, "delimiter");
    if (!delimiter) return delimiter.error();
    return CutAt(SplitPattern::Literal(*delimiter), SplitBehavior::kRemoved);
  }
  return NotSupported(step, "type \"" + *type + "\"");
}

bool IsMetaspaceFirst(const PreTokenizerStep& step) {
  const auto* metaspace = std::get_if<MetaspaceStep>(&step);
  return metaspace != nullptr && metaspace->prepend == MetaspaceStep::Prepend::kFirst;
}

}  // namespace

Result<PreTokenizer> PreTokenizer::Read(const JsonField& field) {
  const auto steps = Steps(field, "pretokenizers");
  if (!steps) return steps.error();
  PreTokenizer pre_tokenizer;
  bool written_anew = false;
  for (const JsonField& step_field : *steps) {
    auto step = ReadStep(step_field);
    if (!step) return step.error();
    // Which word is the first is not clear any more once words were written anew.
    if (written_anew && IsMetaspaceFirst(*step)) {
      return NotSupported(step_field, "prepend_scheme \"first\" at this place");
    }
    written_anew = written_anew || !std::holds_alternative<SplitStep>(*step);
    pre_tokenizer.steps_.push_back(std::move(*step));
  }
  return pre_tokenizer;
}

bool PreTokenizer::HasMetaspaceFirst() const {
  return std::any_of(steps_.begin(), steps_.end(), IsMetaspaceFirst);
}

Status PreTokenizer::Run(std::string_view text, bool is_first, bool at_start, Words* words) const {
  words->parts.clear();
  words->are_bytes = false;
  if (!text.empty()) words->parts.push_back(text);
  for (const PreTokenizerStep& step : steps_) {
    const char* const start = words->parts.empty() ? nullptr : words->parts[0].data();
    const Place place{is_first, at_start, &step == &steps_.back()};
    const Status done = std::visit([&](const auto& read) { return RunStep(read, place, words); }, step);
    if (!done) return done;
    // A word that was removed may have been the first.
    if (std::holds_alternative<SplitStep>(step)) {
      is_first = is_first && !words->parts.empty() && words->parts[0].data() == start;
    }
  }
  return {};
}

}  // namespace espalier
