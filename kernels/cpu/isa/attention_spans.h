// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/gemm_types.h"

namespace espalier::cpu {
namespace {

ESPALIER_INLINE int32_t MinOf(int32_t a, int32_t b) { return a < b ? a : b; }
ESPALIER_INLINE int32_t MaxOf(int32_t a, int32_t b) { return a > b ? a : b; }

// Position of an entry's token.
ESPALIER_INLINE int32_t TokenPosition(const AttentionArgs& args, const PlanEntry& entry, int32_t token) {
  return entry.first_own_row < 0 ? entry.position + token : args.row_position[entry.first_own_row + token];
}

ESPALIER_INLINE bool Sees(const AttentionArgs& args, const PlanEntry& entry, int32_t token, int32_t row) {
  if (row < entry.row_begin || row >= entry.row_end) return false;
  if (entry.first_own_row < 0) return true;
  const int32_t own = entry.first_own_row + token;
  return row >= own && row < args.row_subtree_end[own];
}

}  // namespace
}  // namespace espalier::cpu
