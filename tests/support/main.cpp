// main() of every test program: Catch2's, and an exit code of its own when every test case was skipped
// (Catch2 v2 knows no skipping). Compiled once: this file takes Catch2 v2 about 20 s.
#define CATCH_CONFIG_RUNNER
#include <cstdio>
#include <cstdlib>

#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

struct SkipState {
  std::string running;  // Name of the running test case; empty between test cases.
  bool running_skipped = false;
  int finished = 0;
  int skipped = 0;
};

SkipState& State() {
  static SkipState state;
  return state;
}

#if ESPALIER_CATCH2_V3
using ListenerBase = Catch::EventListenerBase;
#else
using ListenerBase = Catch::TestEventListenerBase;
#endif

class SkipListener : public ListenerBase {
 public:
  using ListenerBase::ListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    ListenerBase::testCaseStarting(info);
    State().running = info.name;
    State().running_skipped = false;
  }

  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    ListenerBase::testCaseEnded(stats);
    State().finished += 1;
    State().skipped += State().running_skipped ? 1 : 0;
    State().running.clear();
  }
};

CATCH_REGISTER_LISTENER(SkipListener)

}  // namespace

void SkipTest(const std::string& reason) {
  std::printf("skipped: %s: %s\n", State().running.c_str(), reason.c_str());
  std::fflush(stdout);
  State().running_skipped = true;
}

std::optional<std::string> EnvOrSkip(const char* name) {
  const char* value = std::getenv(name);
  if (value != nullptr && *value != '\0') return std::string(value);
  SkipTest(std::string(name) + " is not set");
  return std::nullopt;
}

std::filesystem::path SourceDir() {
  const char* moved = std::getenv("ESPALIER_SOURCE_DIR");
  return moved != nullptr && *moved != '\0' ? moved : ESPALIER_SOURCE_DIR;
}

}  // namespace espalier::test

int main(int argc, char** argv) {
  const int result = Catch::Session().run(argc, argv);
  const auto& state = espalier::test::State();
  const bool all_skipped = state.finished > 0 && state.skipped == state.finished;
  return result == 0 && all_skipped ? ESPALIER_SKIP_EXIT_CODE : result;
}
