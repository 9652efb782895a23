#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace espalier::cli {

// Numbers of the command line. What is no number, or not within the range, is refused in words that name the
// flag: the library's own conversions wrap negative numbers, read 010 as 8 and cut what overflows.
CLI::Option* AddInteger(CLI::App& to, const std::string& flag, std::optional<int32_t>& value, int32_t min,
                        int32_t max, const std::string& help);
CLI::Option* AddUnsigned(CLI::App& to, const std::string& flag, std::optional<uint64_t>& value,
                         const std::string& help);

struct RealRange {
  double min = 0.0;
  double max = 0.0;
  bool without_min = false;  // (min, max]
};
CLI::Option* AddReal(CLI::App& to, const std::string& flag, std::optional<float>& value, RealRange range,
                     const std::string& help);

// "must be in (0, 1], got 'x'", or nothing.
std::string FaultOfReal(const std::string& text, RealRange range, double& value);

// A comma-separated list of token ids. Throws CLI::ValidationError naming the flag.
std::vector<int32_t> ParseIds(const std::string& flag, const std::string& text);

}  // namespace espalier::cli
