#include "engine/random_stream.h"

#include <unordered_set>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

TreeNodeSpec Generate(int32_t parent, int32_t branches) {
  GenerateSpec spec;
  spec.branches = branches;
  return {"", parent, spec};
}

// The figures were computed apart from this program, with the formula of the header in Python integers. They
// must never change: a seed would give other tokens.
TEST_CASE("stream keys are the known ones") {
  CHECK(RootStream(0) == 0xE220A8397B1DCDAFU);
  CHECK(RootStream(42) == 0xBDD732262FEB6E95U);
  CHECK(ChildStream(RootStream(42), 0) == 0x648F81159543927BU);
  CHECK(ChildStream(RootStream(42), 1) == 0x30535228FBFF14E3U);
  CHECK(ChildStream(ChildStream(RootStream(42), 1), 999) == 0x69CA02208110F1E8U);
}

TEST_CASE("different paths and seeds have different streams") {
  std::unordered_set<uint64_t> seen;
  size_t streams = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<uint64_t> level = {RootStream(seed)};
    for (int32_t depth = 0; depth < 3; ++depth) {
      streams += level.size();
      seen.insert(level.begin(), level.end());
      std::vector<uint64_t> next;
      for (const uint64_t parent : level) {
        for (int32_t ordinal = 0; ordinal < 20; ++ordinal) next.push_back(ChildStream(parent, ordinal));
      }
      level = next;
    }
  }
  CHECK(seen.size() == streams);
}

TEST_CASE("ordinals count the branches of a parent, through selections, in the order of the nodes") {
  TreeRequest request;
  request.nodes = {
      {"root", -1, GivenSpec{{1}}},  // 0
      Generate(0, 3),                // 1: 0, 1, 2 of the root
      {"s1", 1, SelectSpec{}},       // 2
      Generate(2, 2),                // 3: 0, 1 of a branch at 1
      {"g", 0, GivenSpec{{1}}},      // 4: 3 of the root
      Generate(1, 1),                // 5: 2 of a branch at 1
      {"s2", 2, SelectSpec{}},       // 6
      Generate(6, 4),                // 7: 3..6 of a branch at 1
      Generate(3, 2),                // 8: 0, 1 of a branch at 3
  };
  CHECK(FirstOrdinals(request) == std::vector<int32_t>{0, 0, 0, 0, 3, 2, 0, 3, 0});
}

}  // namespace
}  // namespace espalier
