#include "engine/row_shares.h"

namespace espalier {

std::vector<size_t> ShareRows(const std::vector<size_t>& wanted, size_t rows, size_t least_trees) {
  std::vector<size_t> ascending = wanted;
  std::sort(ascending.begin(), ascending.end());
  size_t left = rows;
  size_t sharing = wanted.size();
  size_t share = 0;
  for (const size_t size : ascending) {
    share = left / sharing;
    if (size > share) break;
    left -= size;
    --sharing;
  }
  const size_t max = std::max(share + 1, rows / least_trees);
  std::vector<size_t> shares = wanted;
  for (size_t& size : shares) {
    if (size <= share) continue;
    size = std::min({size, max, left});
    left -= size;
  }
  return shares;
}

}  // namespace espalier
