#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/base/result.h"

namespace espalier {

// A regular file, open for reading. It is read, not mapped: a mapped file that another program cuts short
// ends the process with a signal, a read one gives an error. Thread-safe.
class InputFile {
 public:
  // Errors (kInvalidArgument, field == path): it does not exist, is a folder, a pipe or a device, may not be
  // read. Never waits for the other end of a pipe.
  static Result<std::shared_ptr<const InputFile>> Open(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }  // when it was opened

  // Fills `out` with what begins at byte `offset`; both lie within bytes(). Errors: the file cannot be read,
  // or ends earlier than it did when it was opened.
  Status Read(uint64_t offset, std::span<std::byte> out) const;
  // An error where the file has been written to, or has another size, since it was opened.
  Status CheckUnchanged() const;

 private:
  InputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_;
  uint64_t bytes_ = 0;
  int64_t changed_s_ = 0;  // time of the last change of content
  int64_t changed_ns_ = 0;
};

}  // namespace espalier
