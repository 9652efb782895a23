#pragma once

#include <chrono>

namespace espalier::bench {

using Clock = std::chrono::steady_clock;

inline double MicrosecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

}  // namespace espalier::bench
