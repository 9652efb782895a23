#pragma once

#include <algorithm>
#include <cstdint>

namespace espalier {

// The recent rate at which waiting requests are started. Not thread-safe.
class StartRate {
 public:
  // `more_wait`: the next start is awaited from now on.
  void Started(int64_t now_us, bool more_wait) {
    if (awaited_) interval_us_ += (static_cast<double>(now_us - last_us_) - interval_us_) / 8;
    last_us_ = now_us;
    awaited_ = more_wait;
  }
  int64_t NextMs(int64_t now_us) const {
    const double since_us = awaited_ ? static_cast<double>(now_us - last_us_) : 0.0;
    return std::clamp(static_cast<int64_t>(std::max(interval_us_, since_us) / 1000), kMinMs, kMaxMs);
  }

 private:
  static constexpr int64_t kMinMs = 10;
  static constexpr int64_t kMaxMs = 30'000;

  double interval_us_ = 100'000.0;  // until some have been seen
  int64_t last_us_ = 0;
  bool awaited_ = false;
};

}  // namespace espalier
