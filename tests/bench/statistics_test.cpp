#include "tests/bench/statistics.h"

#include "tests/support/catch.h"

namespace espalier::bench {

TEST_CASE("the median is the middle value or the mean of the middle two") {
  CHECK(Median({3.0}) == 3.0);
  CHECK(Median({9.0, 1.0, 4.0}) == 4.0);
  CHECK(Median({8.0, 1.0, 4.0, 2.0}) == 3.0);
}

TEST_CASE("a quantile is the smallest value that covers its part") {
  std::vector<double> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(i);
  CHECK(Quantile(hundred, 0.5) == 50.0);
  CHECK(Quantile(hundred, 0.99) == 99.0);
  CHECK(Quantile(hundred, 1.0) == 100.0);
  CHECK(Quantile(hundred, 0.001) == 1.0);
  CHECK(Quantile({5.0, 7.0}, 0.99) == 7.0);
}

TEST_CASE("the mean weighs all values alike") { CHECK(Mean({1.0, 2.0, 6.0}) == 3.0); }

}  // namespace espalier::bench
