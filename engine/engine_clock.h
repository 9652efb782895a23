#pragma once

#include <chrono>
#include <cstdint>

namespace espalier {

// The only clock of the engine.
inline int64_t EngineNowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace espalier
