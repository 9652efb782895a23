#include "model/tokenizer/json_field.h"

#include <fstream>
#include <limits>

#include "model/folder_hints.h"

namespace espalier {

JsonField JsonField::Child(const nlohmann::json& value, const std::string& step) const {
  JsonField child(value, file_);
  child.path_ = path_.empty() || step.starts_with('[') ? path_ + step : path_ + "." + step;
  return child;
}

Error JsonField::Fail(const std::string& message) const {
  return InvalidArgument(file_, path_.empty() ? message : path_ + ": " + message);
}

std::optional<JsonField> JsonField::Find(const std::string& name) const {
  if (!value_->is_object()) return std::nullopt;
  const auto it = value_->find(name);
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return Child(*it, name);
}

Result<JsonField> JsonField::Get(const std::string& name) const {
  if (!value_->is_object()) return Fail("must be an object");
  auto member = Find(name);
  if (!member) return Child(*value_, name).Fail("is missing");
  return std::move(*member);
}

Result<std::vector<JsonField>> JsonField::Elements() const {
  if (!value_->is_array()) return Fail("must be an array");
  std::vector<JsonField> elements;
  elements.reserve(value_->size());
  for (const auto& element : *value_) {
    elements.push_back(Child(element, "[" + std::to_string(elements.size()) + "]"));
  }
  return elements;
}

Result<std::string> JsonField::String() const {
  if (!value_->is_string()) return Fail("must be a string");
  return value_->get<std::string>();
}

Result<bool> JsonField::Bool() const {
  if (!value_->is_boolean()) return Fail("must be true or false");
  return value_->get<bool>();
}

Result<int64_t> JsonField::Integer() const {
  const bool too_large =
      value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  if (!value_->is_number_integer() || too_large) return Fail("must be an integer");
  return value_->get<int64_t>();
}

Result<bool> JsonField::BoolOr(const std::string& name, bool otherwise) const {
  const auto member = Find(name);
  if (!member) return otherwise;
  return member->Bool();
}

Result<std::string> JsonField::StringOr(const std::string& name, const std::string& otherwise) const {
  const auto member = Find(name);
  if (!member) return otherwise;
  return member->String();
}

Result<std::string> ReadWholeFile(const std::filesystem::path& file) {
  constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{256} << 20;
  std::error_code failed;
  if (!std::filesystem::exists(file, failed)) return InvalidArgument(file.string(), "there is no such file");
  if (!std::filesystem::is_regular_file(file, failed)) return InvalidArgument(file.string(), "is no file");
  const std::uintmax_t size_bytes = std::filesystem::file_size(file, failed);
  if (failed) return InvalidArgument(file.string(), "cannot be read: " + failed.message());
  if (size_bytes == 0) return InvalidArgument(file.string(), "is empty");
  if (size_bytes > kMaxFileBytes) return InvalidArgument(file.string(), "is larger than 256 MiB");
  std::ifstream stream(file, std::ios::binary);
  std::string bytes(static_cast<size_t>(size_bytes), '\0');
  if (!stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    return InvalidArgument(file.string(), "cannot be read");
  }
  if (Status status = CheckNotLfsPointer(bytes, file.string()); !status) return status.error();
  return bytes;
}

Result<nlohmann::json> ReadJsonFile(const std::filesystem::path& file) {
  auto bytes = ReadWholeFile(file);
  if (!bytes) return bytes.error();
  // The parser takes a NUL byte for the end of the text, and would not look at what follows.
  if (bytes->find('\0') != std::string::npos) {
    return InvalidArgument(file.string(), "is no valid JSON: it holds a NUL byte");
  }
  try {
    return nlohmann::json::parse(*bytes);
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument(file.string(), std::string("is no valid JSON: ") + error.what());
  }
}

}  // namespace espalier
