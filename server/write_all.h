#pragma once

#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace espalier {

// Writes all of it; where the file takes no more, the rest is given up. May wait for who reads the file.
inline void WriteAll(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace espalier
