#include "kernels/base/dtype.h"

#include "kernels/cpu/isa/vec_avx512.h"

#include "kernels/cpu/isa/gemm_types.h"

#include "kernels/cpu/isa/tile.h"

#include "kernels/cpu/isa/gemm.h"

#include "kernels/cpu/isa/int8_sums.h"

#include "kernels/cpu/isa/gemm_int8.h"

#include "kernels/cpu/isa/attention_spans.h"

#include "kernels/cpu/isa/attention_tile.h"

#include "kernels/cpu/isa/attention_softmax.h"

#include "kernels/cpu/isa/attention.h"

#include "kernels/cpu/isa/elementwise.h"

#include "kernels/cpu/isa/machine_peaks.h"

#include "kernels/cpu/isa/table.h"

namespace espalier::cpu {

const KernelTable& Avx512Kernels() {
  static constexpr KernelTable kTable = MakeTable("avx512");
  return kTable;
}

}  // namespace espalier::cpu
