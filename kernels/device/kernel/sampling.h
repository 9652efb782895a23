#pragma once

#include <bit>

#include "kernels/base/fast_exp.h"
#include "kernels/device/kernel/rows.h"

// Logits to tokens: what kernels/sampling.h does on the host, with the same arithmetic for each token. Sums
// over the vocabulary are taken in fixed point, where they do not depend on the order of additions. Compiled
// without fused multiply-adds, so that weights have the host's bits.
namespace espalier::device {

// NaN counts as -infinity.
ESPALIER_DEVICE float LogitOf(float value) { return value == value ? value : -INFINITY; }

// Whether (logit a, token i) comes before (b, j): likelier, ties to the lower id. No token (-1) comes last.
ESPALIER_DEVICE bool ComesBefore(float a, int32_t i, float b, int32_t j) {
  if (i < 0 || j < 0) return i >= 0;
  return a != b ? a > b : i < j;
}

// Each thread's best (value, token) to the best of all, at index 0.
template <typename Block>
ESPALIER_DEVICE void BestOfThreads(Block& block, float* values, int32_t* tokens) {
  for (int32_t half = kThreads / 2; half > 0; half /= 2) {
    block.ForThreads([&](int32_t thread) {
      if (thread >= half) return;
      if (!ComesBefore(values[thread + half], tokens[thread + half], values[thread], tokens[thread])) return;
      values[thread] = values[thread + half];
      tokens[thread] = tokens[thread + half];
    });
  }
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const SummarizeArgs& args) {
  const auto row = static_cast<int32_t>(args.logits.first_row + block.index());
  const float* logits = args.logits.Row(row);
  double* sums = block.template Shared<double>();
  auto* values = reinterpret_cast<float*>(sums + kThreads);
  auto* tokens = reinterpret_cast<int32_t*>(values + kThreads);
  block.ForThreads([&](int32_t thread) {
    values[thread] = -INFINITY;
    tokens[thread] = -1;
    for (int32_t i = thread; i < args.logits.vocab; i += kThreads) {
      if (!ComesBefore(LogitOf(logits[i]), i, values[thread], tokens[thread])) continue;
      values[thread] = LogitOf(logits[i]);
      tokens[thread] = i;
    }
  });
  BestOfThreads(block, values, tokens);
  block.ForThreads([&](int32_t thread) {
    double sum = 0.0;
    // x * 0 is 0 but for infinities and NaN, whose row has no distribution: NaN.
    for (int32_t i = thread; i < args.logits.vocab; i += kThreads)
      sum += ExpNonPositive(logits[i] - values[0]) + logits[i] * 0.0F;
    sums[thread] = sum;
  });
  SumThreads(block, sums);
  block.ForThreads([&](int32_t thread) {
    if (thread == 0) args.summaries[row] = {sums[0], values[0], tokens[0]};
  });
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const ScoreArgs& args) {
  const DescriptorScore* scores = ArrayOf(args.descriptor, HeaderOf(args.descriptor).score);
  block.ForThreads([&](int32_t thread) {
    const int64_t i = block.index() * kThreads + thread;
    if (i >= args.count) return;
    const DescriptorScore score = scores[args.first + i];
    args.scored[args.first + i] = args.logits.Row(score.logit_row)[score.token_id];
  });
}

// One pass over the row for each token that is asked for: the best of those that come after the last one.
template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const TopTokensArgs& args) {
  const auto row = static_cast<int32_t>(args.logits.first_row + block.index());
  const int32_t count = ArrayOf(args.descriptor, HeaderOf(args.descriptor).top_count)[row];
  const float* logits = args.logits.Row(row);
  auto* values = block.template Shared<float>();
  auto* tokens = reinterpret_cast<int32_t*>(values + kThreads);
  SampledToken* top = args.top + int64_t{row} * args.stride;
  for (int32_t rank = 0; rank < count; ++rank) {
    block.ForThreads([&](int32_t thread) {
      const SampledToken last = rank == 0 ? SampledToken{-1, 0.0F} : top[rank - 1];
      float value = 0.0F;
      int32_t token = -1;
      for (int32_t i = thread; i < args.logits.vocab && (rank == 0 || last.token_id >= 0); i += kThreads) {
        const float logit = logits[i];
        const bool open = logit == logit && (rank == 0 || ComesBefore(last.logit, last.token_id, logit, i));
        if (!open || !ComesBefore(logit, i, value, token)) continue;
        value = logit;
        token = i;
      }
      values[thread] = value;
      tokens[thread] = token;
    });
    BestOfThreads(block, values, tokens);
    block.ForThreads([&](int32_t thread) {
      if (thread == 0) top[rank] = {tokens[0], values[0]};
    });
  }
}

// Samples one token for one request. `values` are the logits after bias and penalties, then weights.
struct Sampler {
  const DescriptorSample& sample;
  int32_t vocab;
  float* values;  // [vocab]
  SampleShared& shared;

  // The tokens of a thread where their order counts: [begin(thread), begin(thread + 1)).
  ESPALIER_DEVICE int32_t Begin(int32_t thread) const {
    const int32_t per_thread = (vocab + kThreads - 1) / kThreads;
    return MinOf(thread * per_thread, vocab);
  }
};

// Order-preserving map of floats to unsigned numbers; 0 for NaN, and one number for both zeros.
ESPALIER_DEVICE uint32_t KeyOf(float value) {
  if (value != value) return 0;
  const auto bits = std::bit_cast<uint32_t>(value == 0.0F ? 0.0F : value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Weights lie in [0, 1]: those from 2^-20 on are exact, and a vocabulary of 2^19 tokens does not overflow.
ESPALIER_DEVICE uint64_t FixedPoint(float weight) { return static_cast<uint64_t>(weight * 0x1p44F); }

// Repetition: Keskar et al., "CTRL", 2019, section 4.1.
ESPALIER_DEVICE void Penalise(const DescriptorSample& sample, int32_t count, float* logit) {
  *logit = *logit > 0.0F ? *logit / sample.repetition_penalty : *logit * sample.repetition_penalty;
  if (count > 0) *logit -= sample.presence_penalty + sample.frequency_penalty * static_cast<float>(count);
}

// Biases of a token lie side by side: one thread adds them, in their order. Tokens at -infinity stay there.
template <typename Block>
ESPALIER_DEVICE void AddBiases(Block& block, const Sampler& sampler, const SampleArgs& args) {
  const DescriptorBias* biases =
      ArrayOf(args.descriptor, HeaderOf(args.descriptor).bias) + sampler.sample.first_bias;
  const int32_t count = sampler.sample.biases;
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < count; i += kThreads) {
      const int32_t token = biases[i].token_id;
      if (i > 0 && biases[i - 1].token_id == token) continue;
      for (int32_t j = i; j < count && biases[j].token_id == token; ++j)
        sampler.values[token] += biases[j].bias;
    }
  });
}

// Penalties, each token's by one thread.
template <typename Block>
ESPALIER_DEVICE void Penalise(Block& block, const Sampler& sampler, const SampleArgs& args) {
  const DescriptorSample& sample = sampler.sample;
  const DescriptorCount* counts =
      ArrayOf(args.descriptor, HeaderOf(args.descriptor).count) + sample.first_count;
  const int32_t last = sample.counts_last != 0 ? args.last_token[sample.sequence_slot] : -1;
  block.ForThreads([&](int32_t thread) {
    if (thread == 0) sampler.shared.found = 0;
  });
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < sample.counts; i += kThreads) {
      const bool is_last = counts[i].token_id == last;
      Penalise(sample, counts[i].count + (is_last ? 1 : 0), &sampler.values[counts[i].token_id]);
      if (is_last) sampler.shared.found = 1;
    }
  });
  block.ForThreads([&](int32_t thread) {
    if (thread == 0 && last >= 0 && sampler.shared.found == 0) Penalise(sample, 1, &sampler.values[last]);
  });
}

template <typename Block>
ESPALIER_DEVICE void FindLargest(Block& block, const Sampler& sampler) {
  SampleShared& shared = sampler.shared;
  block.ForThreads([&](int32_t thread) {
    float value = -INFINITY;
    int32_t token = -1;
    for (int32_t i = thread; i < sampler.vocab; i += kThreads) {
      if (!ComesBefore(LogitOf(sampler.values[i]), i, value, token)) continue;
      value = LogitOf(sampler.values[i]);
      token = i;
    }
    shared.range_max[thread] = value;
    shared.range_argmax[thread] = token;
  });
  BestOfThreads(block, shared.range_max, shared.range_argmax);
  block.ForThreads([&](int32_t thread) {
    if (thread != 0) return;
    shared.max = shared.range_max[0];
    shared.argmax = shared.range_argmax[0];
    shared.token = shared.argmax;
  });
}

// Keeps the tokens of the largest keys until `measure` of them add up to shared.needed, ties to the lower id;
// the others become `excluded`. Finds the smallest key that is kept, byte by byte.
template <typename Block, typename Measure>
ESPALIER_DEVICE void KeepLargest(Block& block, const Sampler& sampler, float excluded, Measure measure) {
  SampleShared& shared = sampler.shared;
  block.ForThreads([&](int32_t thread) {
    if (thread == 0) shared.threshold = 0;
  });
  for (int32_t shift = 24; shift >= 0; shift -= 8) {
    block.ForThreads([&](int32_t thread) { shared.histogram[thread] = 0; });
    block.ForThreads([&](int32_t thread) {
      const uint32_t above = shift == 24 ? 0 : ~uint32_t{0} << (shift + 8);
      for (int32_t i = thread; i < sampler.vocab; i += kThreads) {
        const uint32_t key = KeyOf(sampler.values[i]);
        if ((key & above) == shared.threshold)
          block.Add(&shared.histogram[key >> shift & 255U], measure(sampler.values[i]));
      }
    });
    // Of the keys that begin like the threshold: the byte at which those above it no longer suffice.
    block.ForThreads([&](int32_t thread) {
      if (thread != 0) return;
      int32_t byte = 255;
      while (byte > 0 && shared.histogram[byte] < shared.needed) shared.needed -= shared.histogram[byte--];
      shared.threshold |= static_cast<uint32_t>(byte) << shift;
    });
  }
  block.ForThreads([&](int32_t thread) {
    int32_t ties = 0;
    for (int32_t i = sampler.Begin(thread); i < sampler.Begin(thread + 1); ++i) {
      ties += KeyOf(sampler.values[i]) == shared.threshold ? 1 : 0;
    }
    shared.range_count[thread] = ties;
  });
  block.ForThreads([&](int32_t thread) {
    int32_t rank = 0;
    for (int32_t before = 0; before < thread; ++before) rank += shared.range_count[before];
    for (int32_t i = sampler.Begin(thread); i < sampler.Begin(thread + 1); ++i) {
      const uint32_t key = KeyOf(sampler.values[i]);
      // Equal keys have equal measures: the first `rank` of them do not yet suffice.
      const bool kept = key > shared.threshold ||
                        (key == shared.threshold &&
                         static_cast<uint64_t>(rank++) * measure(sampler.values[i]) < shared.needed);
      if (!kept) sampler.values[i] = excluded;
    }
  });
}

// The whole weight, to shared.total.
template <typename Block>
ESPALIER_DEVICE void SumWeights(Block& block, const Sampler& sampler) {
  block.ForThreads([&](int32_t thread) {
    uint64_t sum = 0;
    for (int32_t i = sampler.Begin(thread); i < sampler.Begin(thread + 1); ++i)
      sum += FixedPoint(sampler.values[i]);
    sampler.shared.range_mass[thread] = sum;
  });
  block.ForThreads([&](int32_t thread) {
    if (thread != 0) return;
    sampler.shared.total = 0;
    for (int32_t i = 0; i < kThreads; ++i) sampler.shared.total += sampler.shared.range_mass[i];
  });
}

// The first token in ascending id whose cumulated weight is above uniform * total.
template <typename Block>
ESPALIER_DEVICE void Invert(Block& block, const Sampler& sampler) {
  SampleShared& shared = sampler.shared;
  block.ForThreads([&](int32_t thread) {
    if (thread != 0) return;
    const double target = sampler.sample.uniform * static_cast<double>(shared.total);
    uint64_t sum = 0;
    int32_t range = 0;
    while (range < kThreads && static_cast<double>(sum + shared.range_mass[range]) <= target) {
      sum += shared.range_mass[range++];
    }
    // Where rounding leaves the whole sum at the target, the likeliest token stays.
    for (int32_t i = sampler.Begin(range); i < sampler.Begin(range + 1); ++i) {
      const uint64_t weight = FixedPoint(sampler.values[i]);
      if (weight == 0) continue;
      sum += weight;
      shared.token = i;
      if (static_cast<double>(sum) > target) return;
    }
  });
}

template <typename Block>
ESPALIER_DEVICE void SampleByWeight(Block& block, const Sampler& sampler) {
  SampleShared& shared = sampler.shared;
  const DescriptorSample& sample = sampler.sample;
  if (sample.top_k > 0 && sample.top_k < sampler.vocab) {
    block.ForThreads([&](int32_t thread) {
      if (thread == 0) shared.needed = static_cast<uint64_t>(sample.top_k);
    });
    KeepLargest(block, sampler, -INFINITY, [](float logit) { return uint64_t{logit == logit ? 1U : 0U}; });
  }
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < sampler.vocab; i += kThreads) {
      const float weight = ExpNonPositive((sampler.values[i] - shared.max) * sample.inverse_temperature);
      sampler.values[i] = weight < sample.min_p ? 0.0F : weight;
    }
  });
  SumWeights(block, sampler);
  if (sample.top_p < 1.0) {
    block.ForThreads([&](int32_t thread) {
      if (thread == 0)
        shared.needed = static_cast<uint64_t>(ceil(sample.top_p * static_cast<double>(shared.total)));
    });
    KeepLargest(block, sampler, 0.0F, [](float weight) { return FixedPoint(weight); });
    SumWeights(block, sampler);
  }
  Invert(block, sampler);
}

// Where penalties made the largest value infinite: the largest before penalties of those that they made so.
template <typename Block>
ESPALIER_DEVICE void FindOverflown(Block& block, const Sampler& sampler, const SampleArgs& args,
                                   const float* logits) {
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < sampler.vocab; i += kThreads) {
      sampler.values[i] = sampler.values[i] == sampler.shared.max ? logits[i] : -INFINITY;
    }
  });
  AddBiases(block, sampler, args);
  FindLargest(block, sampler);
}

template <typename Block>
ESPALIER_DEVICE void SampleOne(Block& block, const Sampler& sampler, const SampleArgs& args,
                               const float* logits) {
  block.ForThreads([&](int32_t thread) {
    for (int32_t i = thread; i < sampler.vocab; i += kThreads) sampler.values[i] = logits[i];
  });
  AddBiases(block, sampler, args);
  if (sampler.sample.uses_history != 0) Penalise(block, sampler, args);
  FindLargest(block, sampler);
  const float max = block.Broadcast(&sampler.shared.max);
  if (max == -INFINITY || max == INFINITY) {
    FindOverflown(block, sampler, args, logits);
  } else if (sampler.sample.inverse_temperature > 0.0F) {
    SampleByWeight(block, sampler);
  }
}

template <typename Block>
ESPALIER_DEVICE void Run(Block& block, const SampleArgs& args) {
  SampleShared& shared = *block.template Shared<SampleShared>();
  const DescriptorSample* samples = ArrayOf(args.descriptor, HeaderOf(args.descriptor).sample);
  for (int64_t i = args.first + block.index(); i < args.first + args.count; i += block.blocks()) {
    const DescriptorSample sample = samples[i];
    const float* logits = args.logits.Row(sample.logit_row);
    const Sampler sampler = {sample, args.logits.vocab, args.scratch + block.index() * args.logits.vocab,
                             shared};
    const double sum = args.summaries[sample.logit_row].sum;
    const bool finite = sum == sum;
    if (finite) SampleOne(block, sampler, args, logits);
    block.ForThreads([&](int32_t thread) {
      if (thread != 0) return;
      const int32_t token = finite ? shared.token : 0;
      args.last_token[sample.sequence_slot] = token;
      args.sampled[i] = {token, logits[token]};
    });
  }
}

}  // namespace espalier::device
