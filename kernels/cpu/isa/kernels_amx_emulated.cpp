#define ESPALIER_VEC "kernels/cpu/isa/vec_avx512.h"
#define ESPALIER_AMX_UNIT "kernels/cpu/isa/amx_unit_emulated.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& AmxEmulatedKernels() {
  static constexpr KernelTable kTable = MakeTable("amx_emulated");
  return kTable;
}

}  // namespace espalier::cpu
