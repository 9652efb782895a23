#include "server/located_json.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace espalier {
namespace {

constexpr size_t kMaxDepth = 64;

// Counts what the parser has read: that says where it stands.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  size_t* count_;
};

bool IsNumberCharacter(char c) {
  return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

bool IsContinuationByte(char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80U; }

// "[json.exception...] parse error at line 1, column 2: syntax error while parsing X - WHY; last read: 'Y';
// expected Z" becomes "WHY; expected Z".
std::string WhyOf(std::string what) {
  if (const size_t dash = what.find(" - "); dash != std::string::npos) {
    what.erase(0, dash + 3);
  } else if (const size_t bracket = what.find("] "); bracket != std::string::npos) {
    what.erase(0, bracket + 2);
  }
  if (const size_t read = what.find("; last read: "); read != std::string::npos) {
    const size_t expected = what.rfind("; expected ");
    what.erase(read, expected == std::string::npos || expected < read ? std::string::npos : expected - read);
  }
  // The parser names the bracket alone where a comma would do too.
  for (const char* bracket : {"'}'", "']'"}) {
    if (what.ends_with(std::string("; expected ") + bracket)) what.insert(what.size() - 3, "',' or ");
  }
  return what;
}

// The line that holds `offset`, cut where it is long, and a mark below.
std::string ExcerptAt(std::string_view text, size_t offset) {
  constexpr size_t kMaxBytes = 100;
  const size_t newline = offset == 0 ? std::string_view::npos : text.rfind('\n', offset - 1);
  size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
  if (offset - begin > kMaxBytes * 3 / 4) begin = offset - kMaxBytes / 2;
  while (begin < offset && IsContinuationByte(text[begin])) ++begin;
  size_t end = std::min({text.find('\n', offset), begin + kMaxBytes, text.size()});
  while (end < text.size() && IsContinuationByte(text[end])) ++end;
  std::string line(text.substr(begin, end - begin));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  std::string mark;
  for (const char c : text.substr(begin, offset - begin)) {
    if (!IsContinuationByte(c)) mark += ' ';
  }
  return "    " + line + "\n    " + mark + "^";
}

}  // namespace

std::string TextFault::In(const std::string& file) const {
  return file + ":" + std::to_string(place.line) + ":" + std::to_string(place.column) + ": " + message +
         (excerpt.empty() ? "" : "\n" + excerpt);
}

// Receives the parser's events.
class LocatedJson::Builder {
 public:
  Builder(LocatedJson* out, const size_t* read) : out_(*out), read_(*read) {}

  bool null() { return Add(nullptr, read_ - 4); }
  bool boolean(bool value) { return Add(value, read_ - (value ? 4 : 5)); }
  bool number_integer(Json::number_integer_t value) { return Add(value, NumberBegin()); }
  bool number_unsigned(Json::number_unsigned_t value) { return Add(value, NumberBegin()); }
  bool number_float(Json::number_float_t value, const std::string& /*text*/) {
    return Add(value, NumberBegin());
  }
  bool string(std::string& value) { return Add(std::move(value), StringBegin()); }
  bool binary(Json::binary_t& /*value*/) { return false; }  // not in text
  bool start_object(size_t /*size*/) { return Open(Json::object()); }
  bool start_array(size_t /*size*/) { return Open(Json::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool key(std::string& key) {
    Container& parent = open_.back();
    key_begin_ = StringBegin();
    if (parent.value->contains(key)) Fail(key_begin_, Member(parent.path, key) + ": given twice");
    key_ = std::move(key);
    return true;
  }
  bool parse_error(size_t position, const std::string& /*token*/, const Json::exception& error) {
    const std::string why = WhyOf(error.what());
    const size_t offset = FaultBegin(position, why);
    Fail(offset, "not valid JSON: " + why);
    out_.faults_.back().excerpt = ExcerptAt(out_.text_, offset);
    return false;
  }

 private:
  struct Container {
    Json* value = nullptr;
    std::string path;
  };

  // Where the token that was read last began. The parser reads one character past a number.
  size_t NumberBegin() const {
    size_t at = read_;
    if (at > 0 && !IsNumberCharacter(out_.text_[at - 1])) --at;
    while (at > 0 && IsNumberCharacter(out_.text_[at - 1])) --at;
    return at;
  }
  size_t StringBegin() const {
    const std::string& text = out_.text_;
    for (size_t at = read_ - 1; at > 0;) {
      --at;
      if (text[at] != '"') continue;
      size_t backslashes = 0;
      while (backslashes < at && text[at - 1 - backslashes] == '\\') ++backslashes;
      if (backslashes % 2 == 0) return at;
    }
    return 0;
  }

  // Where a mark helps most: the beginning of a token that is out of place, else the last byte that was read.
  size_t FaultBegin(size_t bytes_read, const std::string& why) const {
    const std::string& text = out_.text_;
    if (bytes_read > text.size()) return text.find_last_not_of(" \t\r\n") + 1;  // behind what there is
    if (why.starts_with("unexpected string")) return StringBegin();
    if (why.starts_with("unexpected number") || why.starts_with("number overflow")) return NumberBegin();
    size_t at = bytes_read == 0 ? 0 : bytes_read - 1;
    const bool is_word = why.starts_with("unexpected") && why.find(" literal") < why.find(';');
    while (is_word && at > 0 && text[at - 1] >= 'a' && text[at - 1] <= 'z') --at;  // true, false, null
    return at;
  }

  void Fail(size_t offset, std::string message) {
    out_.faults_.push_back({out_.PlaceAt(offset), std::move(message)});
  }

  bool Add(Json value, size_t begin) {
    Place(std::move(value), begin);
    return true;
  }
  bool Open(Json value) {
    Container opened = Place(std::move(value), read_ - 1);
    if (open_.size() == kMaxDepth) {
      Fail(read_ - 1, "nested more than " + std::to_string(kMaxDepth) + " levels deep");
      return false;
    }
    open_.push_back(std::move(opened));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  // Pointers to open containers stay valid: nothing is added to a container while one inside it is open.
  Container Place(Json value, size_t begin) {
    Container placed{&out_.value_, ""};
    size_t key_begin = begin;
    if (open_.empty()) {
      out_.value_ = std::move(value);
    } else if (Container& parent = open_.back(); parent.value->is_array()) {
      placed.path = Element(parent.path, parent.value->size());
      parent.value->push_back(std::move(value));
      placed.value = &parent.value->back();
    } else {
      placed.path = Member(parent.path, key_);
      placed.value = &(*parent.value)[key_];
      *placed.value = std::move(value);
      key_begin = key_begin_;
    }
    out_.offsets_[placed.path] = {key_begin, begin};
    return placed;
  }

  LocatedJson& out_;
  const size_t& read_;  // bytes that the parser has taken
  std::vector<Container> open_;
  std::string key_;
  size_t key_begin_ = 0;
};

LocatedJson::LocatedJson(std::string text) : text_(std::move(text)) {
  // The parser takes a NUL byte for the end of the text, and would not look at what follows.
  if (const size_t nul = text_.find('\0'); nul != std::string::npos) {
    faults_.push_back({PlaceAt(nul), "not valid JSON: a NUL byte"});
    return;
  }
  size_t read = 0;
  Builder builder(this, &read);
  const char* const begin = text_.data();
  const CountingIterator first(begin, &read);
  const CountingIterator last(begin + text_.size(), &read);
  Json::sax_parse(first, last, &builder, nlohmann::json::input_format_t::json, /*strict=*/true,
                  /*ignore_comments=*/true);
}

std::string LocatedJson::Member(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string LocatedJson::Element(const std::string& path, size_t index) {
  return path + "[" + std::to_string(index) + "]";
}

const LocatedJson::Offsets* LocatedJson::Find(std::string path) const {
  while (true) {
    if (const auto found = offsets_.find(path); found != offsets_.end()) return &found->second;
    if (path.empty()) return nullptr;
    const size_t end = path.find_last_of(".[");
    path.erase(end == std::string::npos ? 0 : end);
  }
}

TextPlace LocatedJson::PlaceOf(const std::string& path) const {
  const Offsets* offsets = Find(path);
  return PlaceAt(offsets == nullptr ? 0 : offsets->value);
}

TextPlace LocatedJson::KeyPlaceOf(const std::string& path) const {
  const Offsets* offsets = Find(path);
  return PlaceAt(offsets == nullptr ? 0 : offsets->key);
}

TextPlace LocatedJson::PlaceAt(size_t offset) const {
  TextPlace place;
  for (size_t i = 0; i < std::min(offset, text_.size()); ++i) {
    if (text_[i] == '\n') {
      ++place.line;
      place.column = 1;
    } else if (!IsContinuationByte(text_[i])) {
      ++place.column;
    }
  }
  return place;
}

std::optional<std::string> ClosestWord(std::string_view word, const std::vector<std::string>& candidates) {
  // Levenshtein's distance, in which neighbours that changed places count once.
  const auto distance = [](std::string_view a, std::string_view b) {
    std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); ++i) {
      for (size_t j = 0; j <= b.size(); ++j) {
        if (i == 0 || j == 0) {
          d[i][j] = i + j;
          continue;
        }
        d[i][j] =
            std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
        const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
        if (swapped) d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
    return d[a.size()][b.size()];
  };
  constexpr size_t kLongestWord = 100;
  if (word.size() > kLongestWord) return std::nullopt;
  std::optional<std::string> closest;
  size_t min = std::max<size_t>(2, word.size() * 2 / 5) + 1;
  for (const std::string& candidate : candidates) {
    // The beginning of a long word, or what lacks its beginning, means it too.
    const bool is_part = word.size() >= 3 && candidate.find(word) != std::string::npos;
    const size_t far = is_part ? 1 : distance(word, candidate);
    if (far >= min || far >= candidate.size()) continue;
    min = far;
    closest = candidate;
  }
  return closest;
}

}  // namespace espalier
