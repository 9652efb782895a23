#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace espalier {

// How many of `rows` each request gets, which `wanted` describes, first ones first, and which want more in
// all. Those that want no more than an equal share of what smaller ones leave get all of it. The larger ones
// run whole, first ones first: branches of one tree share the KV that they read, and a tree that ends early
// frees its own. None gets more than one part in `least_trees` of the rows unless that is its equal share.
std::vector<size_t> ShareRows(const std::vector<size_t>& wanted, size_t rows, size_t least_trees);

// What an asker of ShareOut has taken.
struct Taken {
  int32_t units = 0;
  bool wants_more = false;  // but could take none of what was left
};

// Hands out `units` among askers, first ones first, that say only afterwards how many they took: `take(i,
// most)` takes up to `max`. `served[i]` is the last step that had rows of it. None waits for the whole of
// another, and small wants are met whole: `even_part` of the units goes out in equal parts, where what one
// leaves is for the others; to those that have waited longest, where there are more of them than units. The
// rest goes to the first, which so ends early: equal parts of everything would let all of them end late.
template <typename Take>
Taken ShareOut(const std::vector<uint64_t>& served, int32_t units, double even_part, const Take& take) {
  const int32_t all = units;
  std::vector<bool> wants(served.size(), true);
  const auto offer = [&](size_t i, int32_t max) {
    const Taken taken = max > 0 ? take(i, max) : Taken{0, true};
    wants[i] = taken.wants_more;
    return taken.units;
  };
  std::vector<size_t> asking(served.size());
  std::iota(asking.begin(), asking.end(), size_t{0});
  int32_t even = asking.size() > 1 ? static_cast<int32_t>(std::ceil(units * even_part)) : 0;
  units -= even;
  if (asking.size() > static_cast<size_t>(even)) {
    std::stable_sort(asking.begin(), asking.end(), [&](size_t a, size_t b) { return served[a] < served[b]; });
    asking.resize(static_cast<size_t>(even));
  }
  while (!asking.empty() && even > 0) {
    const int32_t part = std::max(even / static_cast<int32_t>(asking.size()), 1);
    std::erase_if(asking, [&](size_t i) {
      const int32_t taken = offer(i, std::min(part, even));
      even -= taken;
      return taken == 0 || !wants[i];
    });
  }
  units += even;
  for (size_t i = 0; i < served.size(); ++i) {
    if (wants[i]) units -= offer(i, units);
  }
  return {all - units, std::find(wants.begin(), wants.end(), true) != wants.end()};
}

}  // namespace espalier
