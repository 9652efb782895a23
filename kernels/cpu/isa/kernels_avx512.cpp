#define ESPALIER_VEC "kernels/cpu/isa/vec_avx512.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& Avx512Kernels() {
  static constexpr KernelTable kTable = MakeTable("avx512");
  return kTable;
}

}  // namespace espalier::cpu
