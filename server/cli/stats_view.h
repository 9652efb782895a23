#pragma once

#include <string>
#include <vector>

#include "espalier/v1/admin.pb.h"

namespace espalier::cli {

// What a server did between two looks at its counters, `seconds` apart.
struct StatsSpan {
  v1::GetStatsResponse before;
  v1::GetStatsResponse now;
  double seconds = 0.0;  // 0: there is no earlier look; no rates are shown
};

// A screen, within `width` columns. `history`: generated tokens a second, the latest last.
std::vector<std::string> DrawStats(const StatsSpan& span, const std::vector<double>& history, int width);

// A line for files and pipes, and what stands above its columns.
std::string StatsHeader();
std::string StatsLine(const StatsSpan& span);

// Generated tokens a second.
double TokenRate(const StatsSpan& span);

}  // namespace espalier::cli
