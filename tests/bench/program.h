#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace espalier::bench::test {

// The outcome of running espalier-bench as a user does.
struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};
Outcome Run(const std::string& arguments);

// With --json: the one object that it prints. Fails the test unless it ends with code 0.
nlohmann::json RunJson(const std::string& arguments);

}  // namespace espalier::bench::test
