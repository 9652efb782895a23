#include "tests/bench/program.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/catch.h"

namespace espalier::bench::test {

Outcome Run(const std::string& arguments) {
  const auto errors =
      std::filesystem::temp_directory_path() / ("espalier_bench_test_" + std::to_string(getpid()));
  const std::string command =
      std::string("'") + ESPALIER_BENCH_PROGRAM + "' " + arguments + " 2>'" + errors.string() + "'";
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> buffer{};
  for (size_t got = 0; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.out.append(buffer.data(), got);
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  std::ostringstream text;
  text << std::ifstream(errors).rdbuf();
  outcome.err = text.str();
  std::filesystem::remove(errors);
  return outcome;
}

nlohmann::json RunJson(const std::string& arguments) {
  const Outcome outcome = Run(arguments + " --json");
  INFO(outcome.err);
  REQUIRE(outcome.exit_code == 0);
  REQUIRE(std::count(outcome.out.begin(), outcome.out.end(), '\n') == 1);
  REQUIRE(outcome.out.back() == '\n');
  return nlohmann::json::parse(outcome.out);
}

}  // namespace espalier::bench::test
