#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/device/device_backend.h"
#include "kernels/device/shared_layouts.h"

namespace espalier::device {

namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kResultAlignment = 256;
// Events of a step: its begin and end, then two for each attention call.
constexpr int32_t kBegin = 0;
constexpr int32_t kEnd = 1;
constexpr int32_t kFirstAttention = 2;
constexpr int32_t kMaxTimedCalls = 512;

int64_t Microseconds(int64_t nanoseconds) { return (nanoseconds + 500) / 1000; }

}  // namespace

DeviceBackend::ResultLayout::ResultLayout(const LoweredStep& lowered) {
  const DescriptorHeader& header = lowered.header();
  const auto place = [this](int64_t count, size_t size) {
    return std::exchange(bytes, RoundUpTo(bytes + count * static_cast<int64_t>(size), kResultAlignment));
  };
  bytes = 0;
  fault = place(1, sizeof(int32_t));
  summaries = place(header.logit_row.count, sizeof(RowSummary));
  sampled = place(header.sample.count, sizeof(SampledToken));
  scored = place(header.score.count, sizeof(float));
  top = place(int64_t{header.logit_row.count} * lowered.top_stride(), sizeof(SampledToken));
}

void DeviceBackend::BeginStep(std::shared_ptr<const StepInput> step) {
  ESPALIER_CHECK(!in_step_ && issued_ - waited_ < kStepsInFlight);
  CheckStep(*step, max_rows_);
  in_step_ = true;
  StepSlot& slot = current();
  slot.lowered = std::make_unique<LoweredStep>(*step, &histories_);
  slot.step = std::move(step);
  slot.logit_rows = {};
  slot.logits.clear();
  slot.attention_calls = 0;
  slot.sampled = false;
  if (!PrepareSlot(&slot)) return;
  slot.lowered->Write(slot.host_descriptor.data());
  device_->Record(slot.first_event + kBegin);
  if (slot.descriptor_at != slot.host_descriptor.data()) {
    device_->Upload(slot.descriptor_at, slot.host_descriptor.data(), slot.lowered->bytes());
  }
  device_->Fill(slot.results_at, 0, static_cast<int64_t>(sizeof(int32_t)));
  MoveBlocks(slot);
}

void DeviceBackend::MoveBlocks(const StepSlot& slot) {
  for (const KvPool& pool : kv_pools_) {
    for (const int32_t block : slot.step->zero_blocks) ESPALIER_CHECK(block < pool.layout.blocks);
    for (const BlockCopy& copy : slot.step->copies) {
      ESPALIER_CHECK(std::max(copy.source, copy.destination) < pool.layout.blocks &&
                     copy.tokens <= pool.layout.block_tokens);
    }
    const DescriptorHeader& header = slot.lowered->header();
    device_->Run(ZeroBlocksArgs{slot.descriptor_at, pool.values.data(), pool.layout, header.zero_block.count,
                                pool.bf16()});
    device_->Run(
        CopyBlocksArgs{slot.descriptor_at, pool.values.data(), pool.layout, header.copy.count, pool.bf16()});
  }
}

DeviceBackend::Activation& DeviceBackend::Output(ActivationId id, int32_t rows, int64_t cols) {
  Activation& out = At(activations_, id);
  ESPALIER_CHECK(in_step_ && out.cols == cols && rows <= max_rows_);
  out.rows = rows;
  return out;
}

RowsView DeviceBackend::ViewOf(const Activation& activation) const {
  return {activation.values.data(), activation.stride, activation.rows, activation.cols, activation.bf16};
}

void DeviceBackend::Embed(MatrixId table, ActivationId out) {
  const StepSlot& slot = current();
  const Matrix& t = At(matrices_, table);
  const Activation& o = Output(out, slot.step->batch.rows(), t.cols);
  ESPALIER_CHECK(!o.bf16);
  EmbedArgs args;
  args.descriptor = slot.descriptor_at;
  args.last_token = last_token_.as<int32_t>();
  args.table = t.values.data();
  args.table_stride = t.padded_cols;
  args.vocab = t.rows;
  args.bf16_table = bf16();
  args.out = ViewOf(o);
  args.fault = reinterpret_cast<int32_t*>(slot.results_at);
  device_->Run(args);
}

void DeviceBackend::RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) {
  const Activation& i = At(activations_, in);
  const Vector& w = At(vectors_, weight);
  const Activation& o = Output(out, i.rows, w.cols);
  ESPALIER_CHECK(!i.bf16 && i.cols == o.cols);
  device_->Run(RmsNormArgs{ViewOf(i), w.values.as<float>(), epsilon, ViewOf(o)});
}

void DeviceBackend::MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) {
  const Activation& i = At(activations_, in);
  const Matrix& m = At(matrices_, w);
  const Activation& o = Output(out, i.rows, m.rows);
  ESPALIER_CHECK(i.kind == ActivationKind::kOperand && i.cols == m.cols && !o.bf16);
  if (i.rows == 0) return;
  GemmArgs args;
  args.a = i.values.data();
  args.a_stride = i.stride;
  args.w = m.values.data();
  args.c = o.values.as<float>();
  args.c_stride = o.stride;
  args.rows = RowBucket(i.rows, max_rows_);
  args.n = m.padded_rows;
  args.k = m.padded_cols;
  args.bf16 = bf16();
  args.accumulate = mode == MatMulMode::kAccumulate;
  device_->Run(args);
  if (bias == VectorId::kNone) return;
  const Vector& b = At(vectors_, bias);
  ESPALIER_CHECK(b.cols == m.rows);
  device_->Run(AddBiasArgs{b.values.as<float>(), ViewOf(o)});
}

DeviceBackend::Activation& DeviceBackend::CheckedQkv(const KvPool& pool, ActivationId qkv) {
  Activation& a = At(activations_, qkv);
  const StepSlot& slot = current();
  ESPALIER_CHECK(in_step_ && !a.bf16 && slot.lowered->max_block() < pool.layout.blocks);
  CheckQkv(pool.shape, pool.layout.block_tokens, *slot.step, a.rows, a.cols);
  return a;
}

void DeviceBackend::RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) {
  const KvPool& pool = At(kv_pools_, kv);
  const Activation& a = CheckedQkv(pool, qkv);
  ESPALIER_CHECK(layer >= 0 && layer < pool.shape.layers);
  RotaryArgs args;
  args.descriptor = current().descriptor_at;
  args.qkv = ViewOf(a);
  if (spec.rotary != RotaryId::kNone) {
    const Rotary& angles = At(rotaries_, spec.rotary);
    ESPALIER_CHECK(angles.shape.half * 2 == pool.shape.head_dim);
    ESPALIER_CHECK(current().lowered->max_position() < angles.shape.max_positions);
    args.angles = angles.angles.as<float>();
  }
  args.query_norm = HeadNorm(vectors_, pool.shape, spec.query_norm);
  args.key_norm = HeadNorm(vectors_, pool.shape, spec.key_norm);
  args.epsilon = spec.epsilon;
  args.kv = pool.values.data();
  args.layout = pool.layout;
  args.layer = layer;
  args.query_heads = pool.shape.query_heads;
  args.head_dim = pool.shape.head_dim;
  args.bf16_kv = pool.bf16();
  device_->Run(args);
}

void DeviceBackend::TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                                  ActivationId out) {
  const KvPool& pool = At(kv_pools_, kv);
  const AttentionShape& shape = pool.shape;
  StepSlot& slot = current();
  const DescriptorHeader& header = slot.lowered->header();
  const Activation& in = CheckedQkv(pool, qkv);
  const Activation& o = Output(out, in.rows, int64_t{shape.query_heads} * shape.head_dim);
  ESPALIER_CHECK(layer >= 0 && layer < shape.layers);

  auto* partials = reinterpret_cast<float*>(partials_at_);
  AttentionArgs args;
  args.descriptor = slot.descriptor_at;
  args.qkv = ViewOf(in);
  args.kv = pool.values.data();
  args.layout = pool.layout;
  args.layer = layer;
  args.query_heads = shape.query_heads;
  args.head_dim = shape.head_dim;
  args.window = spec.window;
  args.heads_per_tile = std::min(shape.group(), kMaxHeadsPerTile);
  args.tiles_per_group = (shape.group() + args.heads_per_tile - 1) / args.heads_per_tile;
  args.packed_rows =
      static_cast<int32_t>(RoundUpTo(int64_t{slot.lowered->max_item_rows()} * args.heads_per_tile, 8));
  ESPALIER_CHECK_MSG(
      AttentionSharedBytes(args.packed_rows, pool.layout.stored_dim) <= device_->info().shared_bytes,
      "a plan with higher tiles than info().plan allows");
  args.items = header.item.count;
  args.scale_log2 = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(shape.head_dim)));
  args.partials = partials;
  args.bf16_kv = pool.bf16();
  args.out = ViewOf(o);
  const bool timed = slot.attention_calls < kMaxTimedCalls;
  const int32_t event = slot.first_event + kFirstAttention + 2 * slot.attention_calls;
  if (timed) device_->Record(event);
  device_->Run(args);
  device_->Run(MergeArgs{slot.descriptor_at, partials, shape.query_heads, shape.head_dim,
                         pool.layout.stored_dim, header.merge.count, ViewOf(o)});
  if (!timed) return;
  device_->Record(event + 1);
  ++slot.attention_calls;
}

void DeviceBackend::SwiGlu(ActivationId in, ActivationId out) {
  const Activation& i = At(activations_, in);
  const Activation& o = Output(out, i.rows, i.cols / 2);
  ESPALIER_CHECK(!i.bf16);
  device_->Run(SwiGluArgs{ViewOf(i), ViewOf(o)});
}

void DeviceBackend::GatherLogitRows(ActivationId in, ActivationId out) {
  const StepSlot& slot = current();
  const Activation& i = At(activations_, in);
  ESPALIER_CHECK(i.rows == slot.step->batch.rows());
  const Activation& o = Output(out, slot.lowered->header().logit_row.count, i.cols);
  ESPALIER_CHECK(i.bf16 == o.bf16);
  device_->Run(GatherArgs{slot.descriptor_at, ViewOf(i), ViewOf(o)});
}

void DeviceBackend::Logits(ActivationId in, MatrixId head, int32_t first_row) {
  StepSlot& slot = current();
  const Activation& i = At(activations_, in);
  const Matrix& m = At(matrices_, head);
  ESPALIER_CHECK(in_step_ && i.rows == slot.lowered->header().logit_row.count && i.cols == m.cols);
  ESPALIER_CHECK(i.kind == ActivationKind::kOperand && slot.lowered->max_token_id() < m.rows);
  const int32_t rows = LogitRowsFrom(*slot.step, first_row);
  slot.logit_rows = {};
  if (!ReserveSampling(m.padded_rows)) return;
  GemmArgs args;
  args.a = i.values.data() + first_row * i.stride * element_bytes();
  args.a_stride = i.stride;
  args.w = m.values.data();
  args.c = logits_.as<float>();
  args.c_stride = m.padded_rows;
  args.rows = RowBucket(rows, max_rows_);
  args.n = m.padded_rows;
  args.k = m.padded_cols;
  args.bf16 = bf16();
  device_->Run(args);
  slot.logit_rows = {logits_.as<float>(), m.padded_rows, first_row, rows, m.rows};
}

void DeviceBackend::Sample() {
  StepSlot& slot = current();
  ESPALIER_CHECK(in_step_);
  const LogitsView& logits = slot.logit_rows;
  if (logits.data == nullptr) return;
  const LoweredStep& lowered = *slot.lowered;
  const ResultLayout at(lowered);
  const std::byte* descriptor = slot.descriptor_at;
  std::byte* results = slot.results_at;
  auto* summaries = reinterpret_cast<RowSummary*>(results + at.summaries);
  device_->Run(SummarizeArgs{logits, summaries});
  device_->Run(TopTokensArgs{descriptor, logits, lowered.top_stride(),
                             reinterpret_cast<SampledToken*>(results + at.top)});
  const LoweredStep::Range scores = lowered.ScoresOf(logits.first_row, logits.rows);
  device_->Run(ScoreArgs{descriptor, logits, scores.first, scores.count,
                         reinterpret_cast<float*>(results + at.scored)});
  const LoweredStep::Range samples = lowered.SamplesOf(logits.first_row, logits.rows);
  SampleArgs args;
  args.descriptor = descriptor;
  args.logits = logits;
  args.summaries = summaries;
  args.first = samples.first;
  args.count = samples.count;
  args.scratch = sample_scratch_.as<float>();
  args.last_token = last_token_.as<int32_t>();
  args.sampled = reinterpret_cast<SampledToken*>(results + at.sampled);
  device_->Run(args);
  slot.sampled = true;
  if (slot.step->return_logits) DownloadLogits(&slot);
}

void DeviceBackend::DownloadLogits(StepSlot* slot) {
  const LogitsView& logits = slot->logit_rows;
  const size_t begin = slot->logits.size();
  slot->logits.resize(begin + static_cast<size_t>(logits.rows) * static_cast<size_t>(logits.vocab));
  for (int32_t row = 0; row < logits.rows; ++row) {
    device_->Download(slot->logits.data() + begin + int64_t{row} * logits.vocab,
                      logits.data + row * logits.stride, int64_t{logits.vocab} * 4);
  }
  device_->Synchronize();
}

void DeviceBackend::EndStep() {
  ESPALIER_CHECK(in_step_);
  in_step_ = false;
  StepSlot& slot = current();
  ++issued_;
  if (!device_->status().ok()) return;
  if (slot.results_at != slot.host_results.data()) {
    device_->Download(slot.host_results.data(), slot.results_at, ResultLayout(*slot.lowered).bytes);
  }
  device_->Record(slot.first_event + kEnd);
}

Result<StepResult> DeviceBackend::Wait() {
  ESPALIER_CHECK(waited_ < issued_);
  StepSlot& slot = slots_[static_cast<size_t>(waited_++ % kStepsInFlight)];
  if (device_->status().ok()) device_->WaitFor(slot.first_event + kEnd);
  if (device_->status().ok() && *slot.host_results.as<int32_t>() != 0) {
    device_->Fail(
        InternalError("a row refers to a token that is not in the vocabulary, or to a sequence slot that has "
                      "sampled none"));
  }
  if (!device_->status().ok()) {
    slot.step = nullptr;
    return device_->status().error();
  }
  StepResult result = ReadResult(slot);
  slot.step = nullptr;
  return result;
}

StepResult DeviceBackend::ReadResult(const StepSlot& slot) {
  const LoweredStep& lowered = *slot.lowered;
  const StepInput& step = *slot.step;
  const ResultLayout at(lowered);
  const std::byte* results = slot.host_results.data();
  StepResult result;
  result.step_id = step.step_id;
  const int32_t first = slot.first_event;
  result.times.forward_us = Microseconds(device_->NanosecondsBetween(first + kBegin, first + kEnd));
  int64_t attention_ns = 0;
  for (int32_t i = 0; i < slot.attention_calls; ++i) {
    const int32_t event = first + kFirstAttention + 2 * i;
    attention_ns += device_->NanosecondsBetween(event, event + 1);
  }
  result.times.attention_us = Microseconds(attention_ns);
  if (!slot.sampled) return result;

  const auto* summaries = reinterpret_cast<const RowSummary*>(results + at.summaries);
  const auto* top = reinterpret_cast<const SampledToken*>(results + at.top);
  const auto answer = [&](int32_t logit_row, int32_t token_id, float logit, int32_t top_logprobs) {
    const RowSummary& row = summaries[logit_row];
    const LogitSummary summary{row.argmax, row.max, std::log(row.sum)};
    TokenResult token;
    token.token_id = token_id;
    token.logprob = summary.LogProbability(logit);
    for (int32_t rank = 0; summary.finite() && rank < top_logprobs; ++rank) {
      const SampledToken& likely = top[int64_t{logit_row} * lowered.top_stride() + rank];
      if (likely.token_id < 0) break;
      token.top_logprobs.push_back({likely.token_id, summary.LogProbability(likely.logit)});
    }
    return token;
  };
  result.samples.resize(step.samples.size());
  const auto* sampled = reinterpret_cast<const SampledToken*>(results + at.sampled);
  for (size_t i = 0; i < lowered.sample_order().size(); ++i) {
    const auto index = static_cast<size_t>(lowered.sample_order()[i]);
    const SampleRequest& request = step.samples[index];
    result.samples[index] =
        answer(request.logit_index, sampled[i].token_id, sampled[i].logit, request.top_logprobs);
    if (lowered.sample_counts()[i] != nullptr) {
      HistoryStore::Sampled(lowered.sample_counts()[i].get(), sampled[i].token_id);
    }
  }
  result.scores.resize(step.scores.size());
  const auto* scored = reinterpret_cast<const float*>(results + at.scored);
  for (size_t i = 0; i < lowered.score_order().size(); ++i) {
    const auto index = static_cast<size_t>(lowered.score_order()[i]);
    const ScoreRequest& request = step.scores[index];
    result.scores[index] = answer(request.logit_index, request.token_id, scored[i], request.top_logprobs);
  }
  result.logits = slot.logits;
  return result;
}

void DeviceBackend::WriteActivation(ActivationId activation, std::span<const float> values) {
  Activation& a = At(activations_, activation);
  a.rows = static_cast<int32_t>(WholeRows(values, a.cols, max_rows_));
  std::vector<std::byte> rows(static_cast<size_t>(a.rows * a.format().row_bytes()));
  StoreRows(values, a.format(), rows.data());
  device_->Upload(a.values.data(), rows.data(), static_cast<int64_t>(rows.size()));
  device_->Synchronize();
}

std::vector<float> DeviceBackend::ReadActivation(ActivationId activation) {
  const Activation& a = At(activations_, activation);
  std::vector<std::byte> rows(static_cast<size_t>(a.rows * a.format().row_bytes()));
  device_->Download(rows.data(), a.values.data(), static_cast<int64_t>(rows.size()));
  device_->Synchronize();
  return LoadRows(rows.data(), a.rows, a.format());
}

// Twice what the cache holds is written: all that was there before is evicted.
void DeviceBackend::FlushCaches() {
  if (Reserve(&flush_, 2 * device_->info().cache_bytes, "emptying the caches")) {
    device_->Fill(flush_.data(), 0, flush_.bytes());
  }
}

}  // namespace espalier::device
