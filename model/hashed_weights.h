#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "kernels/base/dtype.h"
#include "model/tensor_source.h"

namespace espalier {

// Weights from an integer hash, for benchmarks and golden tests: nothing is stored, and every program makes
// the same numbers. Element i of tensor `name` comes from h = Mix(Fnv1a64(name) + seed * G + (i + 1) * G)
// modulo 2^64, with G = 0x9e3779b97f4a7c15 and Mix the finaliser of SplitMix64 (Steele et al. 2014):
//   norm weights (name contains "norm"):  1 + (h >> 58) / 128 - 1 / 4           64 steps in [0.75, 1.25)
//   biases (name ends in ".bias"):        (2 (h >> 57) - 127) / 512             128 steps in (-1/4, 1/4)
//   matrices [rows, cols]:                (2 (h >> 57) - 127) / 64 / 2^p        128 steps in (-2, 2) / 2^p
//   lm_head.weight:                       four times that, so that likelihoods spread as a trained model's do
// p is the least integer with 4^p >= cols. Every value is exact in bf16, fp16 (p <= 12) and fp32.
uint64_t HashedTensorKey(std::string_view name, uint64_t seed);

// Tensors are made when asked for and freed with their last owner. Thread-safe.
std::unique_ptr<TensorSource> MakeHashedWeights(uint64_t seed, DType dtype);

}  // namespace espalier
