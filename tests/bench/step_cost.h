#pragma once

#include <cstdint>

#include "model/model_runner.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/decode_run.h"
#include "tests/bench/machine.h"
#include "tests/bench/report.h"

namespace espalier::bench {

// Measures the machine; of a GPU the options say it.
Result<Peak> PeakOf(const ModelOptions& model, int32_t threads);

// What a step of a random Llama has to do, and the least time that takes on a machine of a given peak.
class StepCost {
 public:
  StepCost(const ModelOptions& model, const ModelInfo& info, const Peak& peak);

  // MatMul and attention.
  double Flop(const StepSample& step) const;
  // Weights, and KV as the step's plan reads it.
  double Bytes(const StepSample& step) const;
  // The longer of Bytes at the measured bandwidth and Flop at the measured rates: GEMM with int8
  // weights at that of int8, attention at that of bf16.
  double RooflineUs(const StepSample& step) const;

  // Adds what the device reached, from sums or means over the same steps: the fields forward_us,
  // attention_us, achieved_bytes_per_s (`bytes` over forward_us), bandwidth_ratio (that over the measured
  // bandwidth) and, of KV over attention_us, attention_bytes_per_s and attention_bandwidth_ratio. 0 where no
  // time was measured.
  void AddReached(double forward_us, double attention_us, double bytes, double kv_read_bytes,
                  Json* row) const;

 private:
  double MatMulFlop(const StepSample& step) const;

  const Peak peak_;
  const bool bf16_;
  const bool int8_;
  // Elements of the model's matrices: multiply-adds of a row.
  int64_t all_rows_ = 0;    // multiplied by every row of a step
  int64_t logit_rows_ = 0;  // only by rows whose logits are needed: all behind the last layer's attention
  int64_t weight_bytes_ = 0;
  int64_t logit_bytes_ = 0;  // of these: matrices that only rows with logits need
};

}  // namespace espalier::bench
