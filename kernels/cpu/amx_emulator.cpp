#include "kernels/cpu/cpu_features.h"

// Linked into a program, this makes the AMX kernels on the emulated AMX unit an instruction set of its own.
namespace espalier::cpu {

namespace {

[[maybe_unused]] const bool amx_emulator_added = AddAmxEmulator(&AmxEmulatedKernels);

}  // namespace

}  // namespace espalier::cpu
