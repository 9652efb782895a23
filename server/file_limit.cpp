#include "server/file_limit.h"

#include <sys/resource.h>

#include <algorithm>
#include <limits>

namespace espalier {

int64_t RaiseFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
  const rlimit raised{files.rlim_max, files.rlim_max};
  if (files.rlim_cur < files.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) files = raised;
  constexpr auto kMax = static_cast<rlim_t>(std::numeric_limits<int64_t>::max());
  return static_cast<int64_t>(std::min(files.rlim_cur, kMax));
}

int32_t ConnectionsFor(int64_t file_limit) {
  // The model, the log, gRPC's own, connections of other endpoints, and those that gRPC is about to close.
  const int64_t others = std::min<int64_t>(file_limit / 4, 512);
  return static_cast<int32_t>(std::clamp<int64_t>(file_limit - others, 16, 10'000));
}

}  // namespace espalier
