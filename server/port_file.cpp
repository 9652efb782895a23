#include "server/port_file.h"

#include <filesystem>
#include <fstream>
#include <system_error>

namespace espalier {

Status WritePortFile(const std::string& flag, const std::string& path, int port) {
  std::error_code unknown;
  const auto type = std::filesystem::status(path, unknown).type();
  const bool is_file =
      type == std::filesystem::file_type::not_found || type == std::filesystem::file_type::regular;
  const std::string written = is_file ? path + ".new" : path;
  std::ofstream file(written, std::ios::trunc);
  file << port << '\n';
  file.close();
  std::error_code failed;
  if (file && is_file) std::filesystem::rename(written, path, failed);
  if (file && !failed) return {};
  if (is_file) std::filesystem::remove(written, unknown);
  return InvalidArgument(flag, "cannot write " + path);
}

}  // namespace espalier
