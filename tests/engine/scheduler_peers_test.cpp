// What peers get of rows, turns and blocks where one of them wants everything, counted in steps.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/peer_shares.h"
#include "engine/scheduler.h"
#include "engine/waiting_list.h"
#include "tests/engine/fakes/scheduler_harness.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::HarnessOptions;
using test::SchedulerHarness;

TreeRequest Tree(const std::string& peer, int32_t prompt_tokens, int32_t branches, int32_t max_new_tokens,
                 int32_t first_token) {
  TreeRequest request;
  request.peer = peer;
  GivenSpec given;
  for (int32_t i = 0; i < prompt_tokens; ++i) given.token_ids.push_back((first_token + i * 7) % 31);
  request.nodes.push_back({"prompt", -1, given});
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  request.nodes.push_back({"answer", 0, generate});
  return request;
}

HarnessOptions Options(int32_t blocks) {
  HarnessOptions options;
  options.runner.total_blocks = blocks;
  options.runner.block_tokens = 4;
  options.runner.max_positions = 2048;
  options.max_batch_rows = 32;
  options.max_branches = 2048;
  return options;
}

// Steps until it ends, and until its first token.
struct Steps {
  int first_token = -1;
  int end = 0;
};
Steps Run(SchedulerHarness* harness, uint64_t id) {
  Steps steps;
  while (!harness->ended(id) && harness->problem().empty() && steps.end < 5000 && harness->Step()) {
    ++steps.end;
    const std::vector<TreeEvent>& events = harness->events(id);
    const bool has_sampled = std::any_of(events.begin(), events.end(), [](const TreeEvent& event) {
      return std::holds_alternative<TreeDelta>(event);
    });
    if (has_sampled && steps.first_token < 0) steps.first_token = steps.end;
  }
  return steps;
}

TEST_CASE("a small request of another peer is served at once while another one asks for everything") {
  for (const int32_t steps_in_flight : {1, 2}) {
    for (const int32_t blocks : {4096, 300, 64}) {
      CAPTURE(steps_in_flight, blocks);
      HarnessOptions options = Options(blocks);
      options.runner.steps_in_flight = steps_in_flight;
      SchedulerHarness harness(options);
      std::vector<uint64_t> greedy;
      for (int32_t i = 0; i < 200; ++i) greedy.push_back(harness.Submit(Tree("greedy", 5, 100, 200, i)));
      for (int i = 0; i < 60; ++i) harness.Step();
      for (int32_t i = 0; i < 5; ++i) {
        const uint64_t id = harness.Submit(Tree("small", 9, 2, 8, i));
        const Steps steps = Run(&harness, id);
        CHECK(steps.first_token <= (blocks > 64 ? 4 : 8));
        CHECK(steps.end <= 8 + 10);  // where blocks are short, one of 4 tokens takes two steps to get
        CHECK(harness.Compare(id).empty());
      }
      CHECK(harness.problem() == "");
      CHECK(std::none_of(greedy.begin(), greedy.end(), [&](uint64_t id) { return harness.ended(id); }));
      for (const uint64_t id : greedy) harness.Cancel(id);
      harness.RunUntilIdle();
      CHECK(harness.problem() == "");
    }
  }
}

TEST_CASE("one large request gives blocks back to a peer that has none, and still ends") {
  for (const int32_t steps_in_flight : {1, 2}) {
    CAPTURE(steps_in_flight);
    HarnessOptions options = Options(120);
    options.runner.steps_in_flight = steps_in_flight;
    SchedulerHarness harness(options);
    const uint64_t large = harness.Submit(Tree("greedy", 9, 24, 60, 1));
    for (int i = 0; i < 50; ++i) harness.Step();
    REQUIRE(harness.scheduler().Stats().blocks_free < 20);
    const uint64_t other = harness.Submit(Tree("other", 41, 4, 20, 2));
    const Steps steps = Run(&harness, other);
    CHECK(steps.first_token <= 41 / 6 + 3);
    CHECK(steps.end <= 41 / 6 + 20 + 10);
    CHECK(!harness.ended(large));
    harness.RunUntilIdle();
    CHECK(harness.problem() == "");
    CHECK(harness.Compare(large).empty());
    CHECK(harness.Compare(other).empty());
  }
}

TEST_CASE("the requests of two peers run in turns, in any order of arrival") {
  SchedulerHarness harness(Options(4096));
  std::vector<uint64_t> first;
  std::vector<uint64_t> second;
  for (int32_t i = 0; i < 200; ++i) first.push_back(harness.Submit(Tree("first", 8, 4, 6, i)));
  for (int32_t i = 0; i < 40; ++i) second.push_back(harness.Submit(Tree("second", 8, 4, 6, i)));
  const auto all_ended = [&] {
    return std::all_of(second.begin(), second.end(), [&](uint64_t id) { return harness.ended(id); });
  };
  while (!all_ended() && harness.problem().empty() && harness.Step()) continue;
  const auto ended =
      std::count_if(first.begin(), first.end(), [&](uint64_t id) { return harness.ended(id); });
  CHECK(ended > 20);
  CHECK(ended < 80);
  harness.RunUntilIdle();
  CHECK(harness.problem() == "");
}

TEST_CASE("rows are shared by peers, not by requests") {
  SchedulerHarness harness(Options(4096));
  for (int32_t i = 0; i < 8; ++i) harness.Submit(Tree("many", 4, 8, 60, i));
  for (int i = 0; i < 4; ++i) harness.Step();
  const uint64_t one = harness.Submit(Tree("one", 4, 16, 30, 9));
  CHECK(Run(&harness, one).end <= 30 + 4);  // 16 of 32 rows; a ninth would take ten times as long
  harness.RunUntilIdle();
  CHECK(harness.problem() == "");
}

TEST_CASE("nothing is kept back from a peer that is alone") {
  const auto steps_of = [](const std::string& other_peer) {
    SchedulerHarness harness(Options(200));
    std::vector<uint64_t> ids;
    for (int32_t i = 0; i < 6; ++i) ids.push_back(harness.Submit(Tree("alone", 6, 30, 20, i)));
    if (!other_peer.empty()) harness.Submit(Tree(other_peer, 4, 1, 1, 8));
    int steps = 0;
    while (harness.Step()) ++steps;
    CHECK(harness.problem() == "");
    return steps;
  };
  const int alone = steps_of("");
  CHECK(steps_of("gone soon") <= alone + alone / 10 + 2);
}

TEST_CASE("the oldest request ends even where its one path needs what smaller peers would take") {
  for (const int32_t steps_in_flight : {1, 2}) {
    CAPTURE(steps_in_flight);
    HarnessOptions options = Options(32);
    options.runner.steps_in_flight = steps_in_flight;
    SchedulerHarness harness(options);
    const uint64_t large = harness.Submit(Tree("large", 20, 3, 100, 1));  // 30 blocks a path
    int32_t submitted = 0;
    int steps = 0;
    for (; !harness.ended(large) && harness.problem().empty() && steps < 5000; ++steps) {
      if (steps % 10 == 0) harness.Submit(Tree("small" + std::to_string(submitted++ % 3), 9, 2, 10, steps));
      harness.Step();
    }
    CHECK(steps < 5000);
    harness.RunUntilIdle();
    REQUIRE(harness.problem() == "");
    CHECK(harness.Compare(large).empty());
  }
}

TEST_CASE("unread answers count as requests that run") {
  PeerShares shares;
  const int32_t a = shares.Submit("a", {0, 1});
  const int32_t b = shares.Submit("b", {0, 2});
  CHECK(shares.heads().begin()->place.arrival == 1);
  shares.SetUnread("a", 3);
  CHECK(shares.heads().begin()->place.arrival == 2);
  CHECK(shares.running(a) == 3);
  shares.Admit(b, {0, 2}, 7);
  CHECK(shares.heads().begin()->place.arrival == 1);
  shares.End(a, {0, 1}, 7, /*admitted=*/false);
  CHECK(shares.active() == 1);
  CHECK(shares.Submit("a", {0, 3}) == a);  // the unread answers keep it
  CHECK(shares.running(a) == 3);
  shares.SetUnread("a", 0);
  shares.End(a, {0, 3}, 7, /*admitted=*/false);
  shares.End(b, {0, 2}, 7, /*admitted=*/true);
  CHECK(shares.active() == 0);
  CHECK(shares.waiting() == 0);
}

TEST_CASE("blocks are claimed from a tree whose selection is taken up a piece at a time") {
  for (int arrival = 3; arrival < 24; ++arrival) {
    CAPTURE(arrival);
    HarnessOptions options = Options(60);
    options.policy.expand_budget = 2;
    SchedulerHarness harness(options);
    TreeRequest search = Tree("search", 5, 24, 3, 0);
    search.nodes.push_back({"best", 1, SelectSpec{.keep = 8}});
    GenerateSpec below = std::get<GenerateSpec>(search.nodes[1].content);
    below.branches = 2;
    search.nodes.push_back({"below", 2, below});
    const uint64_t first = harness.Submit(search);
    for (int i = 0; i < arrival; ++i) harness.Step();
    const uint64_t second = harness.Submit(Tree("one", 4 * 22, 1, 8, 3));
    harness.RunUntilIdle();
    REQUIRE(harness.problem() == "");
    CHECK(harness.Compare(first) == "");
    CHECK(harness.Compare(second) == "");
  }
}

TEST_CASE("peers that hold more than so many blocks are visited, those with most first") {
  PeerShares shares;
  const int32_t a = shares.Submit("a", {0, 1});
  const int32_t b = shares.Submit("b", {0, 2});
  const int32_t c = shares.Submit("c", {0, 3});
  const auto above = [&](int32_t blocks) {
    std::vector<int32_t> visited;
    CHECK_FALSE(shares.VisitHoldersAbove(blocks, [&](int32_t peer) {
      visited.push_back(peer);
      return false;
    }));
    return visited;
  };
  shares.AddHeld(a, 3);
  shares.AddHeld(c, 5);
  shares.AddHeld(b, 5);
  CHECK(above(0) == std::vector<int32_t>{b, c, a});
  CHECK(above(3) == std::vector<int32_t>{b, c});
  CHECK(above(5).empty());
  shares.AddHeld(c, -3);
  shares.AddHeld(a, 1);
  CHECK(above(0) == std::vector<int32_t>{b, a, c});
  CHECK(shares.VisitHoldersAbove(0, [&](int32_t peer) { return peer == a; }));
  shares.End(b, {0, 2}, 7, /*admitted=*/false);
  CHECK(shares.Submit("d", {0, 4}) == b);
  CHECK(shares.held(b) == 0);
  CHECK(above(0) == std::vector<int32_t>{a, c});
  shares.ClearHeld();
  CHECK(above(-1).empty());
  CHECK(shares.held(a) == 0);
}

TEST_CASE("a full queue: the newest of the peer that has the most gives way, to those with fewer") {
  WaitingList list;
  for (uint64_t id = 1; id <= 4; ++id) list.Add(id, "many");
  list.Add(5, "few");
  CHECK(list.WhoGivesWayTo("new") == 4);
  CHECK(list.WhoGivesWayTo("few") == 4);
  CHECK_FALSE(list.WhoGivesWayTo("many"));
  CHECK(list.Remove(4));
  CHECK_FALSE(list.Remove(4));
  list.Add(6, "few");
  CHECK_FALSE(list.WhoGivesWayTo("few"));  // 3 and 2: it would only swap
  CHECK(list.WhoGivesWayTo("new") == 3);
  CHECK(list.size() == 5);
  for (const uint64_t id : {1, 2, 3, 5, 6}) CHECK(list.Remove(id));
  CHECK_FALSE(list.WhoGivesWayTo("new"));
  CHECK(list.size() == 0);
}

}  // namespace
}  // namespace espalier
