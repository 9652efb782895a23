#include "server/setting.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

namespace espalier {
namespace {

using Json = LocatedJson::Json;

std::string OutOfRange(int64_t low, int64_t high, const std::string& text) {
  return "must be in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " + text;
}

template <typename Integer>
Setting MakeIntegerSetting(std::string key, Integer& target, int64_t low, int64_t high, std::string help) {
  auto set = [&target, low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (end != text.data() + text.size() || error == std::errc::invalid_argument) {
      return "must be an integer, got '" + text + "'";
    }
    if (error == std::errc::result_out_of_range || value < low || value > high) {
      return OutOfRange(low, high, text);
    }
    target = static_cast<Integer>(value);
    return "";
  };
  return {std::move(key), Setting::Kind::kInteger, std::move(help), set, [&target] { return Json(target); }};
}

// Bytes of a unit, in any case of letters; nothing where it is none.
std::optional<int64_t> BytesOfUnit(std::string unit) {
  constexpr std::string_view kLetters = "kmgt";
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.empty() || unit == "b") return 1;
  const size_t power = kLetters.find(unit[0]);
  const bool binary = unit.substr(1) == "ib";
  if (power == std::string_view::npos || (!binary && unit.substr(1) != "b")) return std::nullopt;
  int64_t bytes = 1;
  for (size_t i = 0; i <= power; ++i) bytes *= binary ? 1024 : 1000;
  return bytes;
}

}  // namespace

Setting BytesSetting(std::string key, int64_t& target, int64_t low, int64_t high, std::string help) {
  auto set = [&target, low, high](const std::string& text) -> std::string {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const char* const unit = std::find_if(end, text.data() + text.size(), [](char c) { return c != ' '; });
    const std::optional<int64_t> bytes = BytesOfUnit({unit, text.data() + text.size()});
    if (error == std::errc::invalid_argument || !bytes) {
      return "must be a number of bytes, such as 1073741824, 8GiB or 500MB, got '" + text + "'";
    }
    int64_t value = 0;
    const bool too_large = error != std::errc() || __builtin_mul_overflow(number, *bytes, &value);
    if (too_large || value < low || value > high) {
      return OutOfRange(low, high, text);
    }
    target = value;
    return "";
  };
  return {std::move(key), Setting::Kind::kBytes, std::move(help), set, [&target] { return Json(target); }};
}

Setting IntegerSetting(std::string key, int32_t& target, int64_t low, int64_t high, std::string help) {
  return MakeIntegerSetting(std::move(key), target, low, high, std::move(help));
}

Setting IntegerSetting(std::string key, int64_t& target, int64_t low, int64_t high, std::string help) {
  return MakeIntegerSetting(std::move(key), target, low, high, std::move(help));
}

Setting TextSetting(std::string key, std::string& target, std::string help) {
  auto set = [&target](const std::string& text) -> std::string {
    target = text;
    return "";
  };
  return {std::move(key), Setting::Kind::kText, std::move(help), set, [&target] { return Json(target); }};
}

Setting ChoiceSetting(std::string key, const std::vector<std::string>& names, const std::string& help,
                      const std::function<void(const std::string&)>& assign,
                      const std::function<std::string()>& current) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  auto set = [names, list, assign](const std::string& text) -> std::string {
    for (const std::string& name : names) {
      if (name == text) {
        assign(name);
        return "";
      }
    }
    return "must be one of " + list + ", got '" + text + "'";
  };
  Setting setting{std::move(key), Setting::Kind::kText, help + ": " + list, set,
                  [current] { return Json(current()); }};
  setting.choices = names;
  return setting;
}

bool HasKind(const Json& value, Setting::Kind kind) {
  switch (kind) {
    case Setting::Kind::kText:
      return value.is_string();
    case Setting::Kind::kInteger:
      return value.is_number_integer();
    case Setting::Kind::kBytes:
      return value.is_number_integer() || value.is_string();
    case Setting::Kind::kBoolean:
      return value.is_boolean();
  }
  return false;
}

const char* NameOf(Setting::Kind kind) {
  switch (kind) {
    case Setting::Kind::kText:
      return "a string";
    case Setting::Kind::kInteger:
      return "an integer";
    case Setting::Kind::kBytes:
      return "an integer or a string such as \"8GiB\"";
    case Setting::Kind::kBoolean:
      return "true or false";
  }
  return "";
}

Setting* Find(std::vector<Setting>& settings, const std::string& key) {
  for (Setting& setting : settings) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

}  // namespace espalier
