#pragma once

#include <cstdint>

namespace espalier {

// Raises the soft limit of open files of this process to its hard limit. Returns what is in effect then.
int64_t RaiseFileLimit();

// How many connections a server can have at `file_limit` open files: the rest is for everything else. At
// least 16, at most 10,000.
int32_t ConnectionsFor(int64_t file_limit);

}  // namespace espalier
