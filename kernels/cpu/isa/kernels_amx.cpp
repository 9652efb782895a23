#define ESPALIER_VEC "kernels/cpu/isa/vec_avx512.h"
#define ESPALIER_AMX_UNIT "kernels/cpu/isa/amx_unit.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& AmxKernels() {
  static constexpr KernelTable kTable = MakeTable("amx");
  return kTable;
}

}  // namespace espalier::cpu
