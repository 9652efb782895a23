#include "server/setting.h"

#include <charconv>
#include <system_error>
#include <utility>

namespace espalier {
namespace {

using Json = LocatedJson::Json;

template <typename Integer>
Setting MakeIntegerSetting(std::string key, Integer& target, int64_t low, int64_t high, std::string help) {
  auto set = [&target, low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (end != text.data() + text.size() || error == std::errc::invalid_argument) {
      return "must be an integer, got '" + text + "'";
    }
    if (error == std::errc::result_out_of_range || value < low || value > high) {
      return "must be in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " + text;
    }
    target = static_cast<Integer>(value);
    return "";
  };
  return {std::move(key), Setting::Kind::kInteger, std::move(help), set, [&target] { return Json(target); }};
}

}  // namespace

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
