#include "server/cli/json_input.h"

#include <cstdio>
#include <iostream>

#include "server/cli/connection.h"

namespace espalier::cli {

std::string ReadValue(const Json& json, std::vector<int32_t>& ids) {
  if (!json.is_array()) return "must be an array of token ids";
  for (const Json& id : json) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return "must be an array of token ids, holds " + (id.is_number() ? id.dump() : id.type_name());
    }
    ids.push_back(id.get<int32_t>());
  }
  return "";
}

std::string ReadValue(const Json& json, std::string& text) {
  if (!json.is_string()) return "must be a string";
  text = json.get<std::string>();
  return "";
}

int ForEachJsonLine(const std::function<LineOutcome(const Json&)>& take) {
  std::string line;
  for (int number = 1; std::getline(std::cin, line); ++number) {
    if (line.empty()) continue;
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    LineOutcome outcome{.wrong = "not valid JSON"};
    if (!json.is_discarded()) outcome = take(json);
    if (!outcome.wrong.empty()) {
      std::fprintf(stderr, "error: standard input, line %d: %s\n", number, outcome.wrong.c_str());
      return kExitUsage;
    }
    if (outcome.exit_code != kExitDone) return outcome.exit_code;
  }
  return kExitDone;
}

}  // namespace espalier::cli
