#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

// Both counted from 1; columns in characters.
struct TextPlace {
  int line = 1;
  int column = 1;
};

// What is wrong with a text, and where.
struct TextFault {
  TextPlace place;
  std::string message;
  std::string
      excerpt{};  // where the text is no JSON: the line, and below it a mark at the column; else empty

  // "FILE:LINE:COLUMN: message", and the excerpt on two more lines.
  std::string In(const std::string& file) const;
};

// A JSON document written by hand, in which // and /* */ comments are accepted, and where everything in it
// stands. Paths are written as in error messages: "nodes[3].generate.branches"; "" is the document itself.
class LocatedJson {
 public:
  using Json = nlohmann::ordered_json;

  // Faults: the first place that is not JSON, nesting of more than 64 levels, keys that an object has twice.
  // The value is of use where there are none.
  explicit LocatedJson(std::string text);

  const std::vector<TextFault>& faults() const { return faults_; }
  const Json& value() const { return value_; }

  // Where a value begins; of one that is not there, the nearest one around it.
  TextPlace PlaceOf(const std::string& path) const;
  // Where the key of a member begins; of what is no member, the value.
  TextPlace KeyPlaceOf(const std::string& path) const;

  static std::string Member(const std::string& path, const std::string& key);
  static std::string Element(const std::string& path, size_t index);

 private:
  class Builder;
  struct Offsets {
    size_t key = 0;
    size_t value = 0;
  };
  const Offsets* Find(std::string path) const;
  TextPlace PlaceAt(size_t offset) const;

  std::string text_;
  Json value_;
  std::map<std::string, Offsets> offsets_;
  std::vector<TextFault> faults_;
};

// The candidate that `word` is most likely a misspelling of, if one is near.
std::optional<std::string> ClosestWord(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace espalier
