#include "model/json_text.h"

#include <cstdio>
#include <set>

#include "model/folder_hints.h"
#include "model/input_file.h"

namespace espalier {

namespace {

using nlohmann::json;

// Thrown through the parser by the callback below and caught in ParseJsonObject.
struct JsonRefused {
  std::string why;
};

// Refuses deep nesting and repeated keys, both of which nlohmann::json accepts.
class ShapeChecker {
 public:
  bool operator()(json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        keys_.emplace_back();
        if (keys_.size() > kMaxJsonDepth) throw JsonRefused{"JSON is nested too deeply"};
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys_.back().insert(key).second) throw JsonRefused{"key " + Printable(key) + " appears twice"};
        break;
      }
      case json::parse_event_t::value:
        break;
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

std::string Printable(std::string_view text) {
  constexpr size_t kMaxBytes = 120;
  std::string out;
  for (const char c : text.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
      out += escaped;
    }
  }
  return text.size() > kMaxBytes ? out + "..." : out;
}

Result<json> ParseJsonObject(std::string_view text, const std::string& file) {
  if (text.size() > kMaxJsonBytes) return InvalidArgument(file, "JSON of more than 16 MiB");
  // The parser takes a NUL byte for the end of the text, and would not look at what follows. JSON has none.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return InvalidArgument(file, "is not valid JSON: a NUL byte at byte " + std::to_string(nul + 1));
  }
  try {
    ShapeChecker checker;
    auto callback = [&checker](int, json::parse_event_t event, json& parsed) {
      return checker(event, parsed);
    };
    json parsed = json::parse(text.begin(), text.end(), callback);
    if (!parsed.is_object()) return InvalidArgument(file, "must hold a JSON object");
    return parsed;
  } catch (const JsonRefused& refused) {
    return InvalidArgument(file, refused.why);
  } catch (const json::parse_error& error) {
    return InvalidArgument(file, "is not valid JSON: error at byte " + std::to_string(error.byte));
  } catch (const std::bad_alloc&) {
    throw;  // no fault of the file
  } catch (const std::exception&) {
    return InvalidArgument(file, "is not valid JSON");
  }
}

Result<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  const auto file = InputFile::Open(path);
  if (!file) return file.error();
  const uint64_t size = (*file)->bytes();
  if (size > max_bytes) {
    return InvalidArgument(
        path, "has " + std::to_string(size) + " bytes, at most " + std::to_string(max_bytes) + " are read");
  }
  std::string text(static_cast<size_t>(size), '\0');
  if (auto status = (*file)->Read(0, std::as_writable_bytes(std::span(text))); !status.ok()) {
    return status.error();
  }
  if (auto status = CheckNotLfsPointer(text, path); !status.ok()) return status.error();
  return text;
}

const json* JsonReader::Find(const char* key) const {
  asked_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool JsonReader::Has(const char* key) const { return Find(key) != nullptr; }

bool JsonReader::IsNull(const char* key) const { return Find(key) == nullptr && object_.contains(key); }

void JsonReader::Fail(const std::string& key, const std::string& why) {
  if (status_.ok()) status_ = InvalidArgument(file_, prefix_ + key + ": " + why);
}

int32_t JsonReader::Int(const char* key, int32_t value, int32_t min, int32_t max) {
  const json* found = Find(key);
  if (found == nullptr) return value;
  const bool in_range =
      found->is_number_integer() &&
      (found->is_number_unsigned() ? found->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX) : true) &&
      found->get<int64_t>() >= min && found->get<int64_t>() <= max;
  if (!in_range) {
    Fail(key, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return value;
  }
  return static_cast<int32_t>(found->get<int64_t>());
}

double JsonReader::Positive(const char* key, double value) {
  const json* found = Find(key);
  if (found == nullptr) return value;
  const double number = found->is_number() ? found->get<double>() : 0.0;
  if (!(number >= 1e-30 && number <= 1e30)) {
    Fail(key, "must be a positive number from 1e-30 to 1e30");
    return value;
  }
  return number;
}

bool JsonReader::Bool(const char* key, bool value) {
  const json* found = Find(key);
  if (found == nullptr) return value;
  if (!found->is_boolean()) {
    Fail(key, "must be true or false");
    return value;
  }
  return found->get<bool>();
}

std::string JsonReader::String(const char* key, std::string value) {
  const json* found = Find(key);
  if (found == nullptr) return value;
  if (!found->is_string()) {
    Fail(key, "must be a string");
    return value;
  }
  return found->get<std::string>();
}

}  // namespace espalier
