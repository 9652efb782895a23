#pragma once

#include <string>

#include "kernels/cpu/cpu_features.h"
#include "tests/support/catch.h"

namespace espalier::test {

// Whether the kernels for an instruction set run on this machine. One that this program does not know fails
// the test: a program that asks for amx_emulated links espalier_amx_emulator.
inline bool HasIsa(const std::string& isa) {
  const auto kernels = cpu::ChooseKernels(isa);
  if (kernels) return true;
#if defined(__x86_64__)
  INFO(kernels.error().message);
  REQUIRE(kernels.error().message.find("unknown instruction set") == std::string::npos);
#endif
  return false;
}

}  // namespace espalier::test
