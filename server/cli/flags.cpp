#include "server/cli/flags.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace espalier::cli {
namespace {

// The whole text as a number, in decimal.
template <typename Number>
std::errc Parse(const std::string& text, Number& value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stop != end) return std::errc::invalid_argument;
  return error;
}

std::string Short(double number) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", number);
  return text.data();
}

template <typename Number>
CLI::Option* AddWhole(CLI::App& to, const std::string& flag, std::optional<Number>& value, Number min,
                      Number max, const std::string& help) {
  return to.add_option_function<std::string>(
      flag,
      [flag, &value, min, max](const std::string& text) {
        Number number{};
        const std::errc error = Parse(text, number);
        if (error != std::errc() || number < min || number > max) {
          throw CLI::ValidationError(flag, "must be an integer in [" + std::to_string(min) + ", " +
                                               std::to_string(max) + "], got '" + text + "'");
        }
        value = number;
      },
      help);
}

}  // namespace

CLI::Option* AddInteger(CLI::App& to, const std::string& flag, std::optional<int32_t>& value, int32_t min,
                        int32_t max, const std::string& help) {
  return AddWhole(to, flag, value, min, max, help)->type_name("N");
}

CLI::Option* AddUnsigned(CLI::App& to, const std::string& flag, std::optional<uint64_t>& value,
                         const std::string& help) {
  return AddWhole(to, flag, value, uint64_t{0}, UINT64_MAX, help)->type_name("N");
}

std::string FaultOfReal(const std::string& text, RealRange range, double& value) {
  const bool is_number = Parse(text, value) == std::errc() && std::isfinite(value);
  const bool above = range.without_min ? value > range.min : value >= range.min;
  if (is_number && above && value <= range.max) return "";
  return "must be a number in " + std::string(range.without_min ? "(" : "[") + Short(range.min) + ", " +
         Short(range.max) + "], got '" + text + "'";
}

CLI::Option* AddReal(CLI::App& to, const std::string& flag, std::optional<float>& value, RealRange range,
                     const std::string& help) {
  return to
      .add_option_function<std::string>(
          flag,
          [flag, &value, range](const std::string& text) {
            double number = 0.0;
            const std::string fault = FaultOfReal(text, range, number);
            if (!fault.empty()) throw CLI::ValidationError(flag, fault);
            value = static_cast<float>(number);
          },
          help)
      ->type_name("X");
}

std::vector<int32_t> ParseIds(const std::string& flag, const std::string& text) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || (stop != end && *stop != ',')) {
      throw CLI::ValidationError(flag, "must be token ids such as 1,2,3, got '" + text + "'");
    }
    ids.push_back(id);
    if (stop == end) return ids;
    at = stop + 1;
  }
}

}  // namespace espalier::cli
