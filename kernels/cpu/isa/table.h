// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/attention.h"
#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/isa/gemm_int8.h"
#include "kernels/cpu/isa/machine_peaks.h"

namespace espalier::cpu {
namespace {

constexpr KernelTable MakeTable(const char* isa) {
  KernelTable table;
  table.isa = isa;
  table.bf16_operands = kBf16Operands;
  table.gemm_bf16 = Gemm<Bf16Gemm>;
  table.gemm_fp32 = Gemm<Fp32Gemm>;
  table.gemm_int8 = Gemm<Int8Gemm>;
  table.quantize_row = QuantizeRow;
  table.attention_bf16 = Attend<Bf16Gemm>;
  table.attention_fp32 = Attend<Fp32Gemm>;
  table.merge_partials = MergePartials;
  table.rotary_and_store = RotaryAndStoreRow;
  table.rms_norm = RmsNormRow;
  table.swiglu = SwiGluRow;
  table.read_bytes = ReadBytes;
  table.bf16_multiply_adds = Bf16MultiplyAdds;
  table.int8_multiply_adds = Int8MultiplyAdds;
  return table;
}

}  // namespace
}  // namespace espalier::cpu
