// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cpu/isa/vec.h"
#include "kernels/cpu/kernel_table.h"

// How a line of 16 outputs and kStep values of k is multiplied by an operand: the only thing in which the
// element types differ. `Weight` is what weights, K and V are stored as; `Operand` what rows, Q and P are;
// kTileRows are the rows that a register tile can have, descending.
namespace espalier::cpu {
namespace {

ESPALIER_INLINE bf16_t RoundToBf16(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<bf16_t>((bits >> 16) | 0x40U);
  return static_cast<bf16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// How a GEMM goes about its operands where tiles of C lie in vector registers.
struct RegisterTiles {
  // Lines that a GEMM adds up as one, from multiples of so many on. A piece begins at such a multiple; the
  // last one may end in the middle of a group.
  static constexpr int32_t kGroupLines = 1;
  static constexpr int32_t kScoreParts = 2;              // pieces of a GEMM with keys
  static constexpr int32_t kRangePieces = 4;             // chunks of k of a block whose weights stay in L2
  static constexpr int64_t kMaxPrefetchStep = 2 * 64;    // bytes prefetched for each line
  static constexpr int32_t kPrefetchDistanceParts = 32;  // of KV that are prefetched before they are read
  static constexpr int32_t kTogetherEntries = 32;        // of a segment whose keys and values come together
  // How long before weights are read they are prefetched. The panels of a tile are read side by side.
  static constexpr int64_t PrefetchDistance(int64_t tile) { return tile < (12 << 10) ? 12 << 10 : tile; }
  static constexpr int32_t WholeLines(int32_t lines) { return lines; }  // at least, of a piece
  static void Finish() {}  // called when a thread is done with a piece of work
};

#if defined(ESPALIER_AMX_UNIT)
void ReleaseTiles();

// The same where they lie in the tiles of AMX (amx_tiles.h). Processors that have it read memory best where
// lines are prefetched shortly before: 1.5 KB, not 8.
struct AmxTiles {
  static constexpr int32_t kTileRows[] = {64};
  static constexpr int32_t kGroupLines = 16;
  static constexpr int32_t kScoreParts = 1;
  static constexpr int32_t kRangePieces = 2;  // 64 rows of operands stay in L1
  static constexpr int64_t kMaxPrefetchStep = 64;
  static constexpr int32_t kPrefetchDistanceParts = 4;
  static constexpr int32_t kTogetherEntries = 0;
  static constexpr int64_t PrefetchDistance(int64_t) {
    return 3 << 9;
  }  // panels are read one after the other
  static constexpr int32_t WholeLines(int32_t lines) { return (lines + 7) / 8 * 8; }
  static ESPALIER_INLINE void Finish() { ReleaseTiles(); }
};
#endif

// What GEMMs that add up in fp32 have in common.
struct FloatSums : RegisterTiles {
  using Sum = Vec;
  static constexpr const auto& kTileRows = kRowSizes;
};

// fp32 by fp32.
struct Fp32Gemm : FloatSums {
  using Weight = float;
  using Operand = float;
  static constexpr int32_t kStep = 1;
  struct Line {
    Vec v;
  };
  struct Broadcast {
    Vec v;
  };
  static ESPALIER_INLINE Line LoadLine(const Weight* p) { return {Load(p)}; }
  static ESPALIER_INLINE Broadcast LoadOperand(const Operand* p) { return {Set1(*p)}; }
  static ESPALIER_INLINE Vec MulAdd(Line w, Broadcast a, Vec c) { return cpu::MulAdd(w.v, a.v, c); }
  static ESPALIER_INLINE void StoreOperands(Operand* p, Vec v) { Store(p, v); }
};

// bf16 by fp32: the pair becomes two lines of fp32, added in ascending k.
struct ExpandGemm : FloatSums {
  using Weight = bf16_t;
  using Operand = float;
  static constexpr int32_t kStep = 2;
  struct Line {
    Vec first;
    Vec second;
  };
  struct Broadcast {
    Vec first;
    Vec second;
  };
  static ESPALIER_INLINE Line LoadLine(const Weight* p) {
    Line line;
    SplitPairs(p, &line.first, &line.second);
    return line;
  }
  static ESPALIER_INLINE Broadcast LoadOperand(const Operand* p) { return {Set1(p[0]), Set1(p[1])}; }
  static ESPALIER_INLINE Vec MulAdd(Line w, Broadcast a, Vec c) {
    return cpu::MulAdd(w.second, a.second, cpu::MulAdd(w.first, a.first, c));
  }
  static ESPALIER_INLINE void StoreOperands(Operand* p, Vec v) { Store(p, v); }
};

#if defined(__AVX512BF16__)
// bf16 by bf16, pairs by vdpbf16ps.
struct DotGemm : FloatSums {
  using Weight = bf16_t;
  using Operand = bf16_t;
  static constexpr int32_t kStep = 2;
  struct Line {
    __m512i v;
  };
  struct Broadcast {
    __m512i v;
  };
  static ESPALIER_INLINE Line LoadLine(const Weight* p) { return {_mm512_loadu_si512(p)}; }
  static ESPALIER_INLINE Broadcast LoadOperand(const Operand* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof(pair));
    return {_mm512_set1_epi32(pair)};
  }
  static ESPALIER_INLINE Vec MulAdd(Line w, Broadcast a, Vec c) {
    return {_mm512_dpbf16_ps(c.v, (__m512bh)w.v, (__m512bh)a.v)};
  }
  static ESPALIER_INLINE void StoreOperands(Operand* p, Vec v) {
    const __m256bh rounded = _mm512_cvtneps_pbh(v.v);
    __builtin_memcpy(p, &rounded, sizeof(rounded));
  }
};
constexpr bool kBf16Operands = true;
#else
using Bf16Gemm = ExpandGemm;
constexpr bool kBf16Operands = false;
#endif

#if defined(ESPALIER_AMX_UNIT)
// bf16 by bf16, 32 of k at a time by tdpbf16ps.
struct AmxGemm : AmxTiles {
  using Weight = bf16_t;
  using Operand = bf16_t;
  static constexpr int32_t kStep = 2;
  static ESPALIER_INLINE void StoreOperands(Operand* p, Vec v) { DotGemm::StoreOperands(p, v); }
};
using Bf16Gemm = AmxGemm;
#elif defined(__AVX512BF16__)
using Bf16Gemm = DotGemm;
#endif

// 2^x for x <= 127; zero below -127; NaN stays, as the second operand of Max. Polynomial interpolating 2^f at
// the Chebyshev nodes of [-1/2, 1/2]: relative error 2.6e-9, below that of fp32.
ESPALIER_INLINE Vec Exp2(Vec x) {
  x = Max(Set1(-127.0F), x);
  const Vec n = Round(x);
  const Vec f = Sub(x, n);
  Vec p = Set1(0.000154614447F);
  p = MulAdd(p, f, Set1(0.001340042818F));
  p = MulAdd(p, f, Set1(0.009618056679F));
  p = MulAdd(p, f, Set1(0.05550327227F));
  p = MulAdd(p, f, Set1(0.2402265092F));
  p = MulAdd(p, f, Set1(0.6931472067F));
  p = MulAdd(p, f, Set1(1.0F));
  return Mul(p, PowerOfTwo(n));
}

// Writes 16 operands of the next GEMM, whichever type they have.
ESPALIER_INLINE void StoreOut(void* out, int64_t index, bool bf16, Vec v) {
  if (bf16) {
    Bf16Gemm::StoreOperands(static_cast<Bf16Gemm::Operand*>(out) + index, v);
  } else {
    Store(static_cast<float*>(out) + index, v);
  }
}

}  // namespace
}  // namespace espalier::cpu
