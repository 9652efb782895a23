#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/result.h"

namespace espalier {

// A value in a JSON file together with its place ("model.merges[3]"), so that what is wrong can be named. The
// document must outlive it. Reading a value of the wrong type is an error, never an exception.
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string file) : value_(&value), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  const nlohmann::json& value() const { return *value_; }

  // Member of an object; nullopt where there is none, where it is null, and in what is no object.
  std::optional<JsonField> Find(const std::string& name) const;
  Result<JsonField> Get(const std::string& name) const;
  Result<std::vector<JsonField>> Elements() const;

  Result<std::string> String() const;
  Result<bool> Bool() const;
  Result<int64_t> Integer() const;
  // A member that may be missing or null.
  Result<bool> BoolOr(const std::string& name, bool otherwise) const;
  Result<std::string> StringOr(const std::string& name, const std::string& otherwise) const;

  // "path: message" about this place, with the file as the error's field.
  Error Fail(const std::string& message) const;

 private:
  JsonField Child(const nlohmann::json& value, const std::string& step) const;

  const nlohmann::json* value_;
  std::string file_;
  std::string path_;
};

// The whole file; errors name it: missing, unreadable, empty, longer than 256 MiB.
Result<std::string> ReadWholeFile(const std::filesystem::path& file);

// Reads and parses; errors as above, and for what is no JSON.
Result<nlohmann::json> ReadJsonFile(const std::filesystem::path& file);

}  // namespace espalier
