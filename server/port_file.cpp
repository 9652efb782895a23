#include "server/port_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace espalier {
namespace {

Error CannotWrite(const std::string& flag, const std::string& path, int error) {
  return InvalidArgument(flag, "cannot write " + path + ": " + std::generic_category().message(error));
}

// Writes and closes. The error number, or 0.
int WriteAndClose(int file, const std::string& text) {
  ssize_t written = 0;
  do {
    written = write(file, text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  int error = written < 0 ? errno : written == static_cast<ssize_t>(text.size()) ? 0 : ENOSPC;
  if (close(file) != 0 && error == 0) error = errno;
  return error;
}

// These names are links into /proc; what they lead to is a file that this process was given.
bool NamesOwnFile(const std::string& path) {
  return path == "/dev/stdout" || path == "/dev/stderr" || path.starts_with("/dev/fd/") ||
         path.starts_with("/proc/self/fd/");
}

// A new file under a name that nothing has; the name, "" with errno set where there is none.
std::string CreateNextTo(const std::string& path, int* file) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    std::string name = path + ".new." + std::to_string(getpid()) + "." + std::to_string(i);
    *file = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (*file >= 0) return name;
    if (errno != EEXIST) break;
  }
  return "";
}

}  // namespace

Status WritePortFile(const std::string& flag, const std::string& path, int port) {
  const std::string text = std::to_string(port) + "\n";
  struct stat there {};
  const bool exists = lstat(path.c_str(), &there) == 0;
  const bool is_channel = exists && (S_ISFIFO(there.st_mode) || S_ISCHR(there.st_mode));
  if (NamesOwnFile(path) || is_channel) {
    const int file = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | (is_channel ? O_NOFOLLOW : 0));
    if (file < 0) return CannotWrite(flag, path, errno);
    const int error = WriteAndClose(file, text);
    return error == 0 ? Status() : Status(CannotWrite(flag, path, error));
  }
  int file = -1;
  const std::string name = CreateNextTo(path, &file);
  if (name.empty()) return CannotWrite(flag, path, errno);
  int error = WriteAndClose(file, text);
  if (error == 0 && std::rename(name.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  unlink(name.c_str());
  return CannotWrite(flag, path, error);
}

}  // namespace espalier
