#pragma once

#include <compare>
#include <cstdint>

namespace espalier {

// The place of a request in the order of service: higher priorities first, then in the order of arrival. Not
// its id, which only names it: one that comes back after it has waited for its client arrives anew.
struct Precedence {
  int32_t priority = 0;
  uint64_t arrival = 0;  // each only once

  bool operator==(const Precedence&) const = default;
  // Less: served before.
  std::strong_ordering operator<=>(const Precedence& other) const {
    if (priority != other.priority) return other.priority <=> priority;
    return arrival <=> other.arrival;
  }
};

}  // namespace espalier
