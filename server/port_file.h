#pragma once

#include <string>

#include "kernels/base/result.h"

namespace espalier {

// Writes the port to the file `path` so that a reader finds all of it or nothing: it is written under a name
// that was free and moved to its place. What stands at that place is replaced, a symbolic link too: no file
// of another place is touched. A pipe or a device, and this process's own files (/dev/stdout), are written
// to. Errors name `flag`.
Status WritePortFile(const std::string& flag, const std::string& path, int port);

}  // namespace espalier
