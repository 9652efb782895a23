#include "server/cli/stats_view.h"

#include <clocale>

#include "server/console/text.h"
#include "tests/support/catch.h"

namespace espalier::cli {
namespace {

StatsSpan Span() {
  std::setlocale(LC_CTYPE, "C.UTF-8");
  StatsSpan span;
  span.seconds = 2.0;
  span.before.set_generated_tokens(1000);
  span.now.set_generated_tokens(4000);
  span.before.set_computed_tokens(5000);
  span.now.set_computed_tokens(8000);
  span.now.set_cached_tokens(1000);
  span.now.set_kv_read_bytes(25);
  span.now.set_kv_read_bytes_sequence(100);
  span.now.set_blocks_total(100);
  span.now.set_blocks_live(20);
  span.now.set_blocks_indexed(30);
  span.now.set_blocks_free(50);
  span.now.set_requests_active(7);
  span.now.set_requests_queued(3);
  span.now.set_peers_active(2);
  span.now.set_unread_bytes(3'000'000);
  span.now.set_branches_active(64);
  span.now.set_steps(10);
  span.now.set_step_us(20000);
  span.now.set_forward_us(15000);
  return span;
}

TEST_CASE("a line of statistics holds what happened between two looks") {
  CHECK(TokenRate(Span()) == 1500.0);
  CHECK(StatsLine(Span()) ==
        "    1500        1500         4       3        64      20      30      50      25       75");
  CHECK(StatsLine(Span()).size() == StatsHeader().size());
}

TEST_CASE("a screen of statistics fits any width") {
  const std::vector<double> history(300, 10.0);
  for (const int width : {20, 40, 80, 200}) {
    for (const std::string& line : DrawStats(Span(), history, width)) CHECK(DisplayWidth(line) <= width);
  }
  std::string all;
  for (const std::string& line : DrawStats(Span(), {}, 120)) all += line + "\n";
  for (const char* part : {"1.50k/s tokens", "25 % of the tokens", "75 % saved: read", "4 running, 3 queued",
                           "2 with requests, 3.0 MB of answers unread", "20 live, 30 cached, 50 free of 100",
                           "5/s, 2.00 ms each: 75 % forward"}) {
    CAPTURE(part, all);
    CHECK(all.find(part) != std::string::npos);
  }
}

TEST_CASE("where nothing happened nothing is divided by it") {
  const StatsSpan span;
  CHECK(TokenRate(span) == 0.0);
  CHECK(StatsLine(span).find("nan") == std::string::npos);
  for (const std::string& line : DrawStats(span, {0.0, 0.0}, 80))
    CHECK(line.find("nan") == std::string::npos);
}

}  // namespace
}  // namespace espalier::cli
