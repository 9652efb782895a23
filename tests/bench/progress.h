#pragma once

#include <chrono>
#include <cstdio>
#include <string>

namespace espalier::bench {

// Elapsed time and what begins now, on standard error.
class Progress {
 public:
  void Say(const std::string& what) const {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
    std::fprintf(stderr, "[%7.1f s] %s\n", elapsed.count(), what.c_str());
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Load average up to which a machine counts as idle.
inline constexpr double kQuietLoad = 0.5;

}  // namespace espalier::bench
