#pragma once

#include <string>

#include "kernels/base/result.h"
#include "kernels/cpu/kernel_table.h"

namespace espalier::cpu {

// The processor's own name; "unknown processor" where it does not say.
std::string ProcessorName();

// The kernels for an instruction set: auto (the best this machine has), amx, avx512 (with bf16 GEMM where
// the machine has them), avx512_bf16, avx512_no_bf16, avx2 or portable; amx_emulated where it was added. Asks
// the operating system for what the kernels need. Errors name the flag `isa`: unknown, not on this machine,
// or kept back by its operating system.
Result<const KernelTable*> ChooseKernels(const std::string& isa);

using GetKernels = const KernelTable& (*)();

// For the library espalier_amx_emulator, which tests and benchmarks link: AMX kernels with an emulated AMX
// unit, for processors that have avx512_bf16. The same bits as AMX, slow. Called before main; returns true.
bool AddAmxEmulator(GetKernels kernels);

}  // namespace espalier::cpu
