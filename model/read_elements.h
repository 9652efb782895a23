#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/unfit.h"
#include "model/input_file.h"

namespace espalier {

// Reads `bytes` bytes of elements of type `type` that begin at byte `offset` of a file to `to`, long ones by
// several threads, and returns what is unfit among them to be kept as `kept`. Errors: those of
// InputFile::Read.
Result<UnfitValues> ReadElements(const InputFile& file, uint64_t offset, uint64_t bytes, DType type,
                                 DType kept, std::byte* to);

}  // namespace espalier
