#pragma once

#include <string>

#include "kernels/base/result.h"
#include "kernels/cpu/kernel_table.h"

namespace espalier::cpu {

// The processor's own name; "unknown processor" where it does not say.
std::string ProcessorName();

// The kernels for an instruction set: auto (the best this machine has), amx, avx512 (with bf16 GEMM where
// the machine has them), avx512_bf16, avx512_no_bf16, avx2 or portable; for tests amx_emulated. Asks the
// operating system for what the kernels need. Errors name the flag `isa`: unknown, not on this machine, or
// kept back by its operating system.
Result<const KernelTable*> ChooseKernels(const std::string& isa);

}  // namespace espalier::cpu
