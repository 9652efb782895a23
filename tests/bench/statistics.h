#pragma once

#include <vector>

namespace espalier::bench {

// The middle value, or the mean of the middle two. Precondition: not empty.
double Median(std::vector<double> values);

// The smallest value that at least the part `quantile` (0, 1] of all values do not exceed (nearest rank).
// Precondition: not empty.
double Quantile(std::vector<double> values, double quantile);

// Precondition: not empty.
double Mean(const std::vector<double>& values);

}  // namespace espalier::bench
