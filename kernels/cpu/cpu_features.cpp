#include "kernels/cpu/cpu_features.h"

#ifdef ESPALIER_X86_KERNELS
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <fstream>

namespace espalier::cpu {

namespace {

#ifdef ESPALIER_X86_KERNELS
// clang 14 does not know it by name.
bool HasF16c() {
  unsigned int eax = 0;
  unsigned int ebx = 0;
  unsigned int ecx = 0;
  unsigned int edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c(); }
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool HasAvx512Bf16() {
  return HasAvx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
bool HasAmx() {
  unsigned int eax = 0;
  unsigned int ebx = 0;
  unsigned int ecx = 0;
  unsigned int edx = 0;
  constexpr unsigned int kBf16TileInt8 = 1U << 22 | 1U << 24 | 1U << 25;
  if (!HasAvx512Bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kBf16TileInt8) == kBf16TileInt8;
}
// Linux gives the tiles' 8 KB of state to processes that ask for it; kernels before 5.16, and machines whose
// host keeps it back, refuse.
bool AskForTiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
const KernelTable* AmxTable() { return &AmxKernels(); }
const KernelTable* Avx2Table() { return &Avx2Kernels(); }
const KernelTable* Avx512Table() { return &Avx512Kernels(); }
const KernelTable* Avx512Bf16Table() { return &Avx512Bf16Kernels(); }
#else
bool HasAmx() { return false; }
bool AskForTiles() { return false; }
bool HasAvx2() { return false; }
bool HasAvx512() { return false; }
bool HasAvx512Bf16() { return false; }
const KernelTable* AmxTable() { return nullptr; }
const KernelTable* Avx2Table() { return nullptr; }
const KernelTable* Avx512Table() { return nullptr; }
const KernelTable* Avx512Bf16Table() { return nullptr; }
#endif

constinit GetKernels amx_emulator = nullptr;  // set before main

Error Missing(const std::string& isa) {
  return InvalidArgument("isa", "this processor (" + ProcessorName() + ") has no " + isa);
}

}  // namespace

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

bool AddAmxEmulator(GetKernels kernels) {
  amx_emulator = kernels;
  return true;
}

Result<const KernelTable*> ChooseKernels(const std::string& isa) {
  const bool automatic = isa == "auto";
  if (isa == "portable") return &PortableKernels();
  if (isa == "amx" || (automatic && HasAmx())) {
    if (!HasAmx()) return Missing("amx (tile, bf16 and int8)");
    if (AskForTiles()) return AmxTable();
    if (!automatic) return InvalidArgument("isa", "the operating system does not let programs use amx tiles");
  }
  if (isa == "amx_emulated" && amx_emulator != nullptr) {
    if (!HasAvx512Bf16()) return Missing("avx512_bf16, which the emulation of amx needs");
    return &amx_emulator();
  }
  if (isa == "avx512_bf16" || ((automatic || isa == "avx512") && HasAvx512Bf16())) {
    if (!HasAvx512Bf16()) return Missing(isa);
    return Avx512Bf16Table();
  }
  if (isa == "avx512" || isa == "avx512_no_bf16" || (automatic && HasAvx512())) {
    if (!HasAvx512()) return Missing("avx512 (F, BW, VL and DQ)");
    return Avx512Table();
  }
  if (isa == "avx2" || (automatic && HasAvx2())) {
    if (!HasAvx2()) return Missing("avx2 (with fma and f16c)");
    return Avx2Table();
  }
  if (automatic) return &PortableKernels();
  return InvalidArgument("isa",
                         "unknown instruction set \"" + isa + "\": auto, amx, avx512, avx2 or portable");
}

}  // namespace espalier::cpu
