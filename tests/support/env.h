#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace espalier::test {

// Marks the running test case as skipped and prints why; the caller then returns from the test case. A
// program whose test cases were all skipped ends with an exit code that CTest reports as "Skipped". Not for
// use outside a test case.
void SkipTest(const std::string& reason);

// Value of an environment variable. When it is unset or empty: SkipTest, then nullopt. Use:
//   const auto shared = EnvOrSkip("ESPALIER_SHARED_DIR");
//   if (!shared) return;
std::optional<std::string> EnvOrSkip(const char* name);

// Root of the source tree, for files committed for tests: SourceDir() / "tests/kernels/data/x.json". The
// environment's ESPALIER_SOURCE_DIR names it where the program was carried to another machine.
std::filesystem::path SourceDir();

}  // namespace espalier::test
