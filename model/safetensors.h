#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/result.h"

namespace espalier {

// A file mapped read-only, unmapped at the end of its life. The file must not shrink meanwhile.
class MappedFile {
 public:
  // Errors: kInvalidArgument with `field` == path.
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

// A tensor of a file, row-major.
struct SafetensorsEntry {
  std::string dtype_name;      // as the file has it: F32, I64, ...
  std::optional<DType> dtype;  // empty: a type that holds no weights here
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // need not be aligned; lives as long as the file
};

// A safetensors file, fully checked when opened: header length, member names and types, every shape times its
// element size equal to its byte range, and ranges that cover the data without overlap or gap. Immutable.
class SafetensorsFile {
 public:
  // Errors: kInvalidArgument with `field` == path, the message names the tensor.
  static Result<SafetensorsFile> Open(const std::string& path);
  // The same of bytes in memory, which outlive the object; `name` is the field of errors.
  static Result<SafetensorsFile> Parse(std::span<const std::byte> bytes, const std::string& name);

  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }
  const SafetensorsEntry* Find(const std::string& name) const;
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }  // null after Parse

 private:
  std::shared_ptr<const MappedFile> mapping_;
  std::map<std::string, SafetensorsEntry> tensors_;
};

}  // namespace espalier
