#define ESPALIER_VEC "kernels/cpu/isa/vec_portable.h"
#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& PortableKernels() {
  static constexpr KernelTable kTable = MakeTable("portable");
  return kTable;
}

}  // namespace espalier::cpu
