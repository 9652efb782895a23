#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/plan/attention_plan.h"

namespace espalier::bench {

// Reads the values of flags and collects everything that is wrong with them, as "--flag: why".
class FlagReader {
 public:
  void Fail(std::string_view flag, const std::string& why);

  // A number in [low, high].
  void CheckRange(std::string_view flag, int64_t value, int64_t low, int64_t high);
  // "1,20,50", each in [low, high].
  std::vector<int32_t> Integers(std::string_view flag, const std::string& text, int64_t low, int64_t high);
  // "0.5,20", each in [low, high].
  std::vector<double> Numbers(std::string_view flag, const std::string& text, double low, double high);
  // Some of `known`, with commas between them.
  std::vector<std::string> Names(std::string_view flag, const std::string& text,
                                 const std::vector<std::string>& known);
  // "32/8": query heads, KV heads.
  std::pair<int32_t, int32_t> Heads(std::string_view flag, const std::string& text);
  // "flatten,sequence", or "all".
  std::vector<AttentionMode> Modes(std::string_view flag, const std::string& text);
  // "bfloat16" or "float32".
  DType Type(std::string_view flag, const std::string& text);
  // "dtype" or "int8".
  WeightType Weight(std::string_view flag, const std::string& text);
  // "dtype,int8".
  std::vector<WeightType> Weights(std::string_view flag, const std::string& text);
  void CheckOneOf(std::string_view flag, const std::string& text, const std::vector<std::string>& names);

  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::vector<std::string> problems_;
};

}  // namespace espalier::bench
