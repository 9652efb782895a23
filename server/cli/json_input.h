#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/cli/json_lines.h"

namespace espalier::cli {

// Reads one value; returns what is wrong with it, or nothing. Token ids are checked here: the library's
// own conversion cuts numbers to size silently.
std::string ReadValue(const Json& json, std::vector<int32_t>& ids);
std::string ReadValue(const Json& json, std::string& text);

// Calls `take` with the JSON value of each line of standard input that is not empty. Ends where a line is no
// JSON, where `take` reports what is wrong with it (to standard error, with the line's number), or where it
// returns an exit code but kExitDone. Returns the exit code.
struct LineOutcome {
  std::string wrong{};
  int exit_code = 0;
};
int ForEachJsonLine(const std::function<LineOutcome(const Json&)>& take);

}  // namespace espalier::cli
