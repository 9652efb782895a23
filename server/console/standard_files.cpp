#include "server/console/standard_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace espalier::cli {

void HoldStandardFiles(char** argv, ClosedFile closed) {
  bool taken = false;
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    const int flags = fcntl(file, F_GETFD);
    // What a program inherits cannot be closed by exec: this was opened in this process.
    const bool is_library = flags >= 0 && (flags & FD_CLOEXEC) != 0;
    if (flags >= 0 && !is_library) continue;
    const int mode = closed == ClosedFile::kIgnored ? O_RDWR : file == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    const int null =
        open("/dev/null", mode);  // without a library, it has got the lowest free number: this one
    if (null >= 0 && null != file) {
      dup2(null, file);
      close(null);
    }
    taken = taken || is_library;
  }
  if (!taken) return;
  std::error_code unknown;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", unknown);
  if (!unknown) execv(program.c_str(), argv);
}

}  // namespace espalier::cli
