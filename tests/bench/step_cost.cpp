#include "tests/bench/step_cost.h"

#include <algorithm>

namespace espalier::bench {

Result<Peak> PeakOf(const ModelOptions& model, int32_t threads) {
  if (model.backend == "cuda") return Peak{model.peak_gb_per_s * 1e9, model.peak_tflop_per_s * 1e12};
  return MeasurePeak(model.isa, threads, model.peak_buffer_bytes);
}

StepCost::StepCost(const ModelOptions& model, const ModelInfo& info, const Peak& peak)
    : peak_(peak),
      bf16_(info.backend.dtype == DType::kBFloat16),
      int8_(info.backend.weights == WeightType::kInt8),
      weight_bytes_(info.weight_bytes) {
  const int64_t qkv = int64_t{model.hidden} * (model.query_heads + 2 * model.kv_heads) * model.head_dim;
  const int64_t output = int64_t{model.hidden} * model.query_heads * model.head_dim;
  const int64_t ffn = int64_t{3} * model.hidden * model.ffn;
  all_rows_ = model.layers * qkv + (model.layers - 1) * (output + ffn);
  logit_rows_ = output + ffn + int64_t{model.vocab} * model.hidden;
  const int64_t scales = int64_t{2} * (model.hidden + model.ffn) + model.vocab;
  logit_bytes_ = int8_ ? logit_rows_ + scales * static_cast<int64_t>(sizeof(float))
                       : logit_rows_ * static_cast<int64_t>(SizeOf(info.backend.dtype));
}

double StepCost::MatMulFlop(const StepSample& step) const {
  return 2.0 *
         (static_cast<double>(all_rows_) * step.rows + static_cast<double>(logit_rows_) * step.logit_rows);
}

double StepCost::Flop(const StepSample& step) const {
  return MatMulFlop(step) + static_cast<double>(step.accounting.flop);
}

double StepCost::Bytes(const StepSample& step) const {
  const int64_t weights = step.logit_rows > 0 ? weight_bytes_ : weight_bytes_ - logit_bytes_;
  return static_cast<double>(weights + step.accounting.kv_read_bytes);
}

double StepCost::RooflineUs(const StepSample& step) const {
  const double bytes = Bytes(step);
  if (!int8_) return bench::RooflineUs(peak_, bf16_, bytes, Flop(step));
  const double matmul_us = MatMulFlop(step) / peak_.int8_op_per_s * 1e6;
  const auto attention_flop = static_cast<double>(step.accounting.flop);
  return std::max(bytes / peak_.read_bytes_per_s * 1e6,
                  matmul_us + bench::RooflineUs(peak_, bf16_, 0.0, attention_flop));
}

void StepCost::AddReached(double forward_us, double attention_us, double bytes, double kv_read_bytes,
                          Json* row) const {
  const auto rate = [](double moved, double us) { return us > 0.0 ? moved / (us * 1e-6) : 0.0; };
  (*row)["forward_us"] = RoundUs(forward_us);
  (*row)["attention_us"] = RoundUs(attention_us);
  (*row)["achieved_bytes_per_s"] = rate(bytes, forward_us);
  (*row)["bandwidth_ratio"] = rate(bytes, forward_us) / peak_.read_bytes_per_s;
  (*row)["attention_bytes_per_s"] = rate(kv_read_bytes, attention_us);
  (*row)["attention_bandwidth_ratio"] = rate(kv_read_bytes, attention_us) / peak_.read_bytes_per_s;
}

}  // namespace espalier::bench
