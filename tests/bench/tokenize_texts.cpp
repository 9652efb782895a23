#include "tests/bench/tokenize_texts.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string_view>

#include "kernels/base/result.h"

namespace espalier::bench {
namespace {

constexpr std::string_view kWords[] = {"the",
                                       "of",
                                       "and",
                                       "to",
                                       "a",
                                       "in",
                                       "is",
                                       "that",
                                       "it",
                                       "was",
                                       "for",
                                       "on",
                                       "with",
                                       "as",
                                       "be",
                                       "at",
                                       "by",
                                       "this",
                                       "had",
                                       "not",
                                       "but",
                                       "from",
                                       "they",
                                       "which",
                                       "one",
                                       "have",
                                       "were",
                                       "all",
                                       "there",
                                       "when",
                                       "we",
                                       "can",
                                       "said",
                                       "an",
                                       "your",
                                       "each",
                                       "about",
                                       "how",
                                       "their",
                                       "if",
                                       "will",
                                       "other",
                                       "many",
                                       "then",
                                       "them",
                                       "these",
                                       "some",
                                       "would",
                                       "into",
                                       "has",
                                       "more",
                                       "water",
                                       "could",
                                       "people",
                                       "than",
                                       "first",
                                       "long",
                                       "made",
                                       "over",
                                       "number",
                                       "find",
                                       "after",
                                       "thing",
                                       "name",
                                       "very",
                                       "through",
                                       "just",
                                       "sentence",
                                       "great",
                                       "think",
                                       "before",
                                       "line",
                                       "right",
                                       "too",
                                       "means",
                                       "old",
                                       "follow",
                                       "around",
                                       "small",
                                       "another",
                                       "country",
                                       "plant",
                                       "school",
                                       "father",
                                       "keep",
                                       "city",
                                       "between",
                                       "thought",
                                       "story",
                                       "example",
                                       "always",
                                       "paper",
                                       "together",
                                       "often",
                                       "important",
                                       "children",
                                       "mountain",
                                       "river",
                                       "language",
                                       "don't",
                                       "I'm",
                                       "we've",
                                       "Paris",
                                       "London",
                                       "theory",
                                       "server",
                                       "attention",
                                       "memory",
                                       "branch",
                                       "understand",
                                       "quickly",
                                       "development",
                                       "university",
                                       "government",
                                       "temperature",
                                       "notwithstanding",
                                       "internationalisation",
                                       "photosynthesis"};
constexpr std::string_view kForeign[] = {"naïve",
                                         "Straße",
                                         "cœur",
                                         "żółć",
                                         "Ελλάδα",
                                         "θάλασσα",
                                         "привет",
                                         "Москва",
                                         "שלום",
                                         "ספר",
                                         "مرحبا",
                                         "كتاب",
                                         "नमस्ते",
                                         "भारत",
                                         "你好",
                                         "机器学习",
                                         "東京",
                                         "こんにちは",
                                         "カタカナ",
                                         "안녕하세요",
                                         "대한민국",
                                         "สวัสดี",
                                         "ภาษาไทย",
                                         "e\u0301te\u0301",
                                         "👩‍👩‍👧‍👦",
                                         "🏳️‍🌈",
                                         "👍🏽",
                                         "🇫🇷",
                                         "𝔘𝔫𝔦",
                                         "½",
                                         "№",
                                         "…"};
constexpr int kLineWords = 14;
constexpr uint64_t kMaxSpaces = 1000;

class Source {
 public:
  // [0, bound). The same on every machine, unlike the distributions of <random>.
  uint64_t Below(uint64_t bound) { return engine_() % bound; }
  // Small numbers are likelier, as the first words of a language are.
  size_t Skewed(size_t bound) { return static_cast<size_t>(std::min(Below(bound), Below(bound))); }

 private:
  std::mt19937_64 engine_{20};
};

void AddWords(Source* source, std::string* text) {
  for (int i = 0; i < kLineWords; ++i) {
    *text += kWords[source->Skewed(std::size(kWords))];
    if (source->Below(9) == 0) *text += source->Below(3) == 0 ? "." : ",";
    *text += ' ';
  }
  text->back() = '\n';
}

void AddDigits(Source* source, std::string* text) {
  for (uint64_t left = 1 + source->Below(12); left > 0; --left)
    *text += static_cast<char>('0' + source->Below(10));
  *text += ' ';
}

void AddSpaces(Source* source, std::string* text) {
  constexpr std::string_view kSpaces = "      \t\n";
  const char space = kSpaces[source->Below(kSpaces.size())];
  text->append(1 + source->Below(kMaxSpaces), space);
  *text += kWords[source->Skewed(std::size(kWords))];
}

void AddRun(Source* source, std::string* text) { *text += static_cast<char>('a' + source->Skewed(26)); }

void AddScripts(Source* source, std::string* text) {
  *text += kForeign[source->Below(std::size(kForeign))];
  *text += source->Below(8) == 0 ? '\n' : ' ';
}

struct Kind {
  std::string name;
  void (*add)(Source*, std::string*);
};

const std::vector<Kind>& Kinds() {
  static const std::vector<Kind> kinds = {{"words", AddWords},
                                          {"digits", AddDigits},
                                          {"spaces", AddSpaces},
                                          {"run", AddRun},
                                          {"scripts", AddScripts}};
  return kinds;
}

bool IsContinuation(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

}  // namespace

const std::vector<std::string>& TextKinds() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Kind& kind : Kinds()) all.push_back(kind.name);
    return all;
  }();
  return names;
}

std::string MakeText(const std::string& kind, size_t bytes) {
  const auto& kinds = Kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& k) { return k.name == kind; });
  ESPALIER_CHECK(found != kinds.end());
  Source source;
  std::string text;
  // One byte more than asked for shows whether a character is cut there.
  while (text.size() <= bytes) found->add(&source, &text);
  size_t end = bytes;
  while (end > 0 && IsContinuation(text[end])) --end;
  text.resize(end);
  return text;
}

}  // namespace espalier::bench
