#include "tests/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/result.h"

namespace espalier::bench {

double Median(std::vector<double> values) {
  ESPALIER_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2.0;
}

double Quantile(std::vector<double> values, double quantile) {
  ESPALIER_CHECK(!values.empty() && quantile > 0.0 && quantile <= 1.0);
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(quantile * static_cast<double>(values.size()));
  return values[static_cast<size_t>(rank) - 1];
}

double Mean(const std::vector<double>& values) {
  ESPALIER_CHECK(!values.empty());
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace espalier::bench
