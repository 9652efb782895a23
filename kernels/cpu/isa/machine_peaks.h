// For kernels_*.cpp only: everything has internal linkage.
#pragma once

#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/isa/gemm_int8.h"

// What the machine can do at most, for comparison: reading memory, and GEMM over what lies in L1.
namespace espalier::cpu {
namespace {

// Prefetches lines as GEMMs of few rows do: without, memory is not kept busy.
uint32_t ReadBytes(const void* data, int64_t bytes) {
  constexpr int64_t kPrefetchDistance = Bf16Gemm::PrefetchDistance(0) / 4;
  const auto* p = static_cast<const float*>(data);
  Vec sums[4] = {Set1(0.0F), Set1(0.0F), Set1(0.0F), Set1(0.0F)};
  for (int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
    for (int32_t line = 0; line < 4; ++line) __builtin_prefetch(p + i + kPrefetchDistance + line * 16, 0, 3);
    for (int32_t j = 0; j < 4; ++j) sums[j] = Max(sums[j], Load(p + i + j * kLanes));
  }
  return __builtin_bit_cast(uint32_t, ReduceMax(Max(Max(sums[0], sums[1]), Max(sums[2], sums[3]))));
}

// The tallest tile times a chunk of k, again and again; returns how many multiply-adds that were.
template <typename P>
int64_t RepeatGemm(const TileRows<P>& rows, Piece<P>* piece, int64_t min) {
  constexpr int32_t kRows = P::kTileRows[0];
  EvenTiles walk;
  int64_t done = 0;
  for (; done < min; done += int64_t{kRows} * kTilePanels * kLanes * kChunkK) {
    GemmRows<kTilePanels>(rows, kRows, piece, 1, &walk);
  }
  P::Finish();
  return done;
}

// The tallest tile over lines and a C that stay in L1: the most that GEMM with bf16 weights can reach.
float Bf16MultiplyAdds(int64_t min, int64_t* done) {
  constexpr int32_t kRows = Bf16Gemm::kTileRows[0];
  constexpr int32_t kLines = kChunkK / Bf16Gemm::kStep;
  alignas(64) bf16_t weights[kTilePanels][kLines * kLanes * Bf16Gemm::kStep] = {};
  alignas(64) Bf16Gemm::Operand operands[kRows][kChunkK] = {};
  alignas(64) float c[kRows][kTilePanels * kLanes] = {};
  Piece<Bf16Gemm> piece = {};
  TileRows<Bf16Gemm> rows = {operands[0], kChunkK, {}, kTilePanels * kLanes, false};
  for (int32_t p = 0; p < kTilePanels; ++p) {
    piece.weights[p] = weights[p];
    rows.c[p] = c[0] + p * kLanes;
  }
  piece.lines = kLines;
  *done = RepeatGemm(rows, &piece, min);
  return c[0][0];
}

// As Bf16MultiplyAdds.
float Int8MultiplyAdds(int64_t min, int64_t* done) {
  constexpr int32_t kRows = Int8Gemm::kTileRows[0];
  alignas(64) uint8_t weights[kTilePanels][kChunkK * kLanes] = {};
  alignas(64) int8_t operands[kRows][kChunkK] = {};
  alignas(64) float c[kRows][kTilePanels * kLanes] = {};
  alignas(64) float weight_scales[kTilePanels * kLanes] = {};
  const float scales[kRows] = {};
  const int32_t starts[kRows] = {};
  Piece<Int8Gemm> piece = {};
  piece.lines = kChunkK / Int8Gemm::kStep;
  for (int32_t p = 0; p < kTilePanels; ++p) piece.weights[p] = weights[p];
  const TileRows<Int8Gemm> tile = {operands[0],          kChunkK,      scales, starts, 1, c[0],
                                   kTilePanels * kLanes, weight_scales};
  *done = RepeatGemm(tile, &piece, min);
  return c[0][0];
}

}  // namespace
}  // namespace espalier::cpu
