#define ESPALIER_VEC "kernels/cpu/isa/vec_avx2.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& Avx2Kernels() {
  static constexpr KernelTable kTable = MakeTable("avx2");
  return kTable;
}

}  // namespace espalier::cpu
