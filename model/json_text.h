#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

inline constexpr size_t kMaxJsonBytes = size_t{16} << 20;
inline constexpr int kMaxJsonDepth = 16;

// Parses the JSON object in `text`. Refused, with `field` == file: more than kMaxJsonBytes, nesting deeper
// than kMaxJsonDepth, a key twice in one object, what is not JSON or not an object, anything but white space
// behind it. Throws nothing.
Result<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& file);

// The whole of a regular file of at most `max_bytes`. Errors have `field` == path; a Git LFS pointer is one.
Result<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// `text` fit for one line of an error message: control characters escaped, cut after 120 bytes.
std::string Printable(std::string_view text);

// Reads members of a JSON object and keeps the first error, so that a reader is a list of statements. A
// member that is missing or null gives the default.
class JsonReader {
 public:
  // `object` and `file` outlive the reader; `prefix` goes before the names of members in errors.
  JsonReader(const nlohmann::json& object, std::string file, std::string prefix = "")
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  bool Has(const char* key) const;                    // present and not null
  const nlohmann::json* Find(const char* key) const;  // nullptr unless Has
  int32_t Int(const char* key, int32_t value, int32_t min, int32_t max);
  double Positive(const char* key, double value);  // from 1e-30 to 1e30, so that fp32 holds it too
  bool Bool(const char* key, bool value);
  std::string String(const char* key, std::string value);
  bool IsNull(const char* key) const;  // present, with the value null

  // Says that the member is heeded, for the case that no call above asks for it.
  void Understand(const char* key) { asked_.insert(key); }
  // Whether any call above has asked for it.
  bool Understands(const char* key) const { return asked_.contains(key); }

  void Fail(const std::string& key, const std::string& why);
  const Status& status() const { return status_; }

 private:
  const nlohmann::json& object_;
  std::string file_;
  std::string prefix_;
  Status status_;
  mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace espalier
