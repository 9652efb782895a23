#include "tests/bench/flags.h"

#include <algorithm>
#include <charconv>
#include <sstream>

namespace espalier::bench {

namespace {

constexpr int32_t kMaxHeads = 1024;
constexpr AttentionMode kAllModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence,
                                       AttentionMode::kMasked, AttentionMode::kNode,
                                       AttentionMode::kNodeChunk};

std::vector<std::string> WeightTypes() { return {Name(WeightType::kDType), Name(WeightType::kInt8)}; }

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end = text.find(separator); end != std::string::npos; end = text.find(separator, begin)) {
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  parts.push_back(text.substr(begin));
  return parts;
}

std::optional<int64_t> Integer(const std::string& text) {
  int64_t value = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (error != std::errc() || end != last) return std::nullopt;
  return value;
}

std::optional<double> Number(const std::string& text) {
  double value = 0.0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (error != std::errc() || end != last) return std::nullopt;
  return value;
}

std::string List(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

std::string Range(int64_t low, int64_t high) {
  return "[" + std::to_string(low) + ", " + std::to_string(high) + "]";
}

}  // namespace

void FlagReader::Fail(std::string_view flag, const std::string& why) {
  problems_.push_back("--" + std::string(flag) + ": " + why);
}

void FlagReader::CheckRange(std::string_view flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  Fail(flag, "must be in " + Range(low, high) + ", got " + std::to_string(value));
}

std::vector<int32_t> FlagReader::Integers(std::string_view flag, const std::string& text, int64_t low,
                                          int64_t high) {
  std::vector<int32_t> values;
  for (const std::string& part : Split(text, ',')) {
    const auto value = Integer(part);
    if (!value || *value < low || *value > high) {
      Fail(flag, "must be integers in " + Range(low, high) + " with commas between them, got '" + text + "'");
      return {};
    }
    values.push_back(static_cast<int32_t>(*value));
  }
  return values;
}

std::vector<double> FlagReader::Numbers(std::string_view flag, const std::string& text, double low,
                                        double high) {
  std::vector<double> values;
  for (const std::string& part : Split(text, ',')) {
    const auto value = Number(part);
    if (!value || !(*value >= low && *value <= high)) {
      std::ostringstream range;
      range << "[" << low << ", " << high << "]";
      Fail(flag, "must be numbers in " + range.str() + " with commas between them, got '" + text + "'");
      return {};
    }
    values.push_back(*value);
  }
  return values;
}

std::vector<std::string> FlagReader::Names(std::string_view flag, const std::string& text,
                                           const std::vector<std::string>& known) {
  std::vector<std::string> names = Split(text, ',');
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    Fail(flag, "must be some of " + List(known) + " with commas between them, got '" + text + "'");
    return {};
  }
  return names;
}

std::pair<int32_t, int32_t> FlagReader::Heads(std::string_view flag, const std::string& text) {
  const std::vector<std::string> parts = Split(text, '/');
  const auto query = Integer(parts.front());
  const auto kv = Integer(parts.back());
  const bool numbers = parts.size() == 2 && query && kv && *query >= 1 && *query <= kMaxHeads && *kv >= 1;
  if (!numbers || *query % *kv != 0) {
    Fail(flag, "must be QUERY/KV, query heads in " + Range(1, kMaxHeads) +
                   " that are a multiple of the KV heads, got '" + text + "'");
    return {1, 1};
  }
  return {static_cast<int32_t>(*query), static_cast<int32_t>(*kv)};
}

std::vector<AttentionMode> FlagReader::Modes(std::string_view flag, const std::string& text) {
  if (text == "all") return {std::begin(kAllModes), std::end(kAllModes)};
  std::vector<AttentionMode> modes;
  for (const std::string& part : Split(text, ',')) {
    const auto mode = ParseAttentionMode(part);
    if (!mode) {
      std::vector<std::string> names;
      for (const AttentionMode known : kAllModes) names.emplace_back(Name(known));
      Fail(flag, "must be all, or some of " + List(names) + " with commas between them, got '" + text + "'");
      return {};
    }
    modes.push_back(*mode);
  }
  return modes;
}

DType FlagReader::Type(std::string_view flag, const std::string& text) {
  CheckOneOf(flag, text, {Name(DType::kBFloat16), Name(DType::kFloat32)});
  return text == Name(DType::kFloat32) ? DType::kFloat32 : DType::kBFloat16;
}

WeightType FlagReader::Weight(std::string_view flag, const std::string& text) {
  CheckOneOf(flag, text, WeightTypes());
  return text == Name(WeightType::kInt8) ? WeightType::kInt8 : WeightType::kDType;
}

std::vector<WeightType> FlagReader::Weights(std::string_view flag, const std::string& text) {
  std::vector<WeightType> types;
  for (const std::string& name : Names(flag, text, WeightTypes())) types.push_back(Weight(flag, name));
  return types;
}

void FlagReader::CheckOneOf(std::string_view flag, const std::string& text,
                            const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), text) != names.end()) return;
  Fail(flag, "must be one of " + List(names) + ", got '" + text + "'");
}

}  // namespace espalier::bench
