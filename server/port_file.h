#pragma once

#include <string>

#include "kernels/base/result.h"

namespace espalier {

// Writes the port to the file `path` so that a reader finds all of it or nothing: it is written next to its
// place and moved there. What is no file (a pipe, /dev/stdout) is written to. Errors name `flag`.
Status WritePortFile(const std::string& flag, const std::string& path, int port);

}  // namespace espalier
