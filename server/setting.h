#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/located_json.h"

namespace espalier {

// One setting: its key in a file is `max_batch_rows`, its flag is `--max-batch-rows`.
struct Setting {
  enum class Kind : uint8_t { kText, kInteger, kBytes, kBoolean };
  std::string key;
  Kind kind;
  std::string help;
  std::function<std::string(const std::string&)> set;  // returns what is wrong with the value, or nothing
  std::function<LocatedJson::Json()> get;
  std::string place{};  // where its value was given: "--flag" or "FILE:LINE:COLUMN: key"; empty where nowhere
  bool refused = false;                // the value was wrong, which is listed; the default stands
  std::vector<std::string> choices{};  // all that it may be set to, where that is a list
};

Setting IntegerSetting(std::string key, int32_t& target, int64_t low, int64_t high, std::string help);
Setting IntegerSetting(std::string key, int64_t& target, int64_t low, int64_t high, std::string help);
// A number of bytes: an integer, or one with a unit, "8GiB" (2^30) or "8GB" (10^9), in a file as a string.
Setting BytesSetting(std::string key, int64_t& target, int64_t low, int64_t high, std::string help);
Setting TextSetting(std::string key, std::string& target, std::string help);
// A setting with few named values; `assign` gets the chosen name.
Setting ChoiceSetting(std::string key, const std::vector<std::string>& names, const std::string& help,
                      const std::function<void(const std::string&)>& assign,
                      const std::function<std::string()>& current);

// Whether a value of a file may be given to a setting of this kind, and what that is called.
bool HasKind(const LocatedJson::Json& value, Setting::Kind kind);
const char* NameOf(Setting::Kind kind);

Setting* Find(std::vector<Setting>& settings, const std::string& key);

}  // namespace espalier
