#define ESPALIER_VEC "kernels/cpu/isa/vec_avx512.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& Avx512Bf16Kernels() {
  static constexpr KernelTable kTable = MakeTable("avx512_bf16");
  return kTable;
}

}  // namespace espalier::cpu
