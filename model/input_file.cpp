#include "model/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace espalier {

namespace {

// The most that Linux reads at once is a little less than 2 GiB.
constexpr size_t kMaxAtOnce = size_t{1} << 30;

std::string SystemMessage(int error) { return std::generic_category().message(error); }

}  // namespace

Result<std::shared_ptr<const InputFile>> InputFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe that has no writer would wait for one.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) {
    const int error = errno;
    return InvalidArgument(path,
                           error == ENOENT ? "does not exist" : "cannot be opened: " + SystemMessage(error));
  }
  std::shared_ptr<InputFile> file(new InputFile(path, descriptor));
  struct stat info = {};
  if (::fstat(descriptor, &info) != 0) {
    return InvalidArgument(path, "cannot be opened: " + SystemMessage(errno));
  }
  if (S_ISDIR(info.st_mode)) return InvalidArgument(path, "is a folder, not a file");
  if (!S_ISREG(info.st_mode)) return InvalidArgument(path, "is a pipe or a device, not a regular file");
  file->bytes_ = static_cast<uint64_t>(info.st_size);
  file->changed_s_ = info.st_mtim.tv_sec;
  file->changed_ns_ = info.st_mtim.tv_nsec;
  return std::shared_ptr<const InputFile>(std::move(file));
}

InputFile::~InputFile() { ::close(descriptor_); }

Status InputFile::Read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got =
        ::pread(descriptor_, out.data(), std::min(out.size(), kMaxAtOnce), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return InvalidArgument(path_, "cannot be read: " + SystemMessage(errno));
    if (got == 0) {
      return InvalidArgument(path_, "was cut short while it was read: it had " + std::to_string(bytes_) +
                                        " bytes and now ends at byte " + std::to_string(offset) +
                                        " or before");
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return {};
}

Status InputFile::CheckUnchanged() const {
  struct stat info = {};
  if (::fstat(descriptor_, &info) != 0) {
    return InvalidArgument(path_, "cannot be read: " + SystemMessage(errno));
  }
  if (static_cast<uint64_t>(info.st_size) != bytes_) {
    return InvalidArgument(path_, "changed while it was read: it had " + std::to_string(bytes_) +
                                      " bytes and now has " + std::to_string(info.st_size));
  }
  if (info.st_mtim.tv_sec != changed_s_ || info.st_mtim.tv_nsec != changed_ns_) {
    return InvalidArgument(path_, "was written to while it was read");
  }
  return {};
}

}  // namespace espalier
