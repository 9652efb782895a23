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
#include "model/input_file.h"

namespace espalier {

// A tensor of a file, row-major.
struct SafetensorsEntry {
  std::string dtype_name;      // as the file has it: F32, I64, ...
  std::optional<DType> dtype;  // empty: a type that holds no weights here
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // of its first byte in the file; of any residue
  uint64_t bytes = 0;
};

// A safetensors file, its header fully checked when opened: length, member names and types, every shape times
// its element size equal to its byte range, and ranges that cover the data without overlap or gap. Immutable.
class SafetensorsFile {
 public:
  // Errors: kInvalidArgument with `field` == path, the message names the tensor.
  static Result<SafetensorsFile> Open(const std::string& path);
  // The same by the beginning of a file of `file_bytes` bytes: its first eight bytes and its header, or less
  // where the file is shorter; `name` is the field of errors.
  static Result<SafetensorsFile> Parse(std::span<const std::byte> beginning, uint64_t file_bytes,
                                       const std::string& name);

  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }
  const SafetensorsEntry* Find(const std::string& name) const;
  const InputFile& file() const { return *file_; }  // after Open only

 private:
  std::shared_ptr<const InputFile> file_;
  std::map<std::string, SafetensorsEntry> tensors_;
};

}  // namespace espalier
