#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/base/int8.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace espalier::cpu {

namespace {

// Less is done sooner by one thread than shared with another one.
constexpr int64_t kParallelFloats = 8192;
constexpr int64_t kParallelMultiplyAdds = 32768;
constexpr double kLog2E = 1.4426950408889634;

int64_t Microseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

// Scratch that is grown, never shrunk; running out of memory here ends the program.
template <typename T>
T* Reserve(Buffer* buffer, int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  if (buffer->bytes() < bytes) {
    Result<Buffer> grown = Buffer::Allocate(bytes, "scratch");
    ESPALIER_CHECK_MSG(grown.ok(), grown.error().ToString());
    *buffer = std::move(*grown);
  }
  return buffer->as<T>();
}

}  // namespace

template <typename Body>
void CpuBackend::ForRows(int64_t rows, int64_t floats, const Body& body) {
  const int64_t grain =
      rows * floats < kParallelFloats ? rows : std::max<int64_t>(1, rows / (4 * pool_->threads()));
  pool_->ParallelFor(rows, grain, [&](int64_t row, int32_t) { body(row); });
}

void CpuBackend::BeginStep(std::shared_ptr<const StepInput> step) {
  ESPALIER_CHECK(step_ == nullptr && !done_.has_value());
  CheckStep(*step, max_rows_);
  step_ = std::move(step);
  step_begin_ = std::chrono::steady_clock::now();
  attention_time_ = {};
  result_ = {};
  result_.step_id = step_->step_id;
  logit_rows_ = {};
  for (KvPool& kv : kv_pools_) {
    kv.ZeroBlocks(step_->zero_blocks, pool_.get());
    kv.CopyBlocks(step_->copies, pool_.get());
  }
  for (const SequenceHistory& history : step_->histories) sequences_.SetHistory(history);
  const int32_t block_tokens = step_->batch.block_tokens;
  kv_spans_.Build(step_->batch, step_->plan, static_cast<int32_t>(RoundUp(block_tokens, kLanes)));
}

void CpuBackend::Embed(MatrixId table, ActivationId out) {
  const PackedMatrix& t = At(matrices_, table);
  Activation& o = Output(out, step_->batch.rows(), t.cols());
  ESPALIER_CHECK(!o.bf16);
  ESPALIER_CHECK_MSG(!t.int8(), "a table is added by AddTable");
  ForRows(o.rows, o.cols, [&](int64_t row) {
    t.ReadRow(sequences_.Resolve(step_->tokens[static_cast<size_t>(row)]), o.Floats(row));
  });
}

void CpuBackend::RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) {
  const Activation& i = Floats(in);
  const Vector& w = At(vectors_, weight);
  Activation& o = Output(out, i.rows, w.cols);
  ESPALIER_CHECK(i.cols == o.cols);
  ForRows(i.rows, i.cols, [&](int64_t row) {
    kernels_.rms_norm(i.Floats(row), w.values.as<float>(), epsilon, i.cols, o.Row(row), o.bf16);
  });
}

void CpuBackend::Quantize(const Activation& in, int64_t first_row, GemmArgs* args) {
  args->a_stride = (RoundUp(in.cols, 64) / 64 | 1) * 64;
  args->a_groups = (in.cols + kInt8Group - 1) / kInt8Group;
  auto* values = Reserve<int8_t>(&int8_operands_.values, args->rows * args->a_stride);
  auto* scales = Reserve<float>(&int8_operands_.scales, args->rows * args->a_groups);
  auto* starts = Reserve<int32_t>(&int8_operands_.starts, args->rows * args->a_groups);
  args->a = values;
  args->a_scales = scales;
  args->a_starts = starts;
  ForRows(args->rows, in.cols, [&](int64_t row) {
    kernels_.quantize_row({in.Floats(first_row + row), in.cols, values + row * args->a_stride,
                           scales + row * args->a_groups, starts + row * args->a_groups});
  });
}

GemmArgs CpuBackend::GemmOf(const Activation& in, const PackedMatrix& w, int64_t first_row, int64_t rows) {
  ESPALIER_CHECK(in.cols == w.cols());
  ESPALIER_CHECK_MSG(in.bf16 == (kernels_.bf16_operands && w.dtype() == DType::kBFloat16 && !w.int8()),
                     "MatMul reads a kOperand activation");
  GemmArgs args;
  args.a = in.Row(first_row);
  args.a_stride = in.stride;
  args.weights = w.data();
  args.rows = static_cast<int32_t>(rows);
  args.k = static_cast<int32_t>(w.cols());
  args.panels = w.panels();
  args.panels_per_block = w.panels_per_block();
  args.threads = pool_->threads();
  if (w.int8()) {
    args.weight_scales = w.scales();
    Quantize(in, first_row, &args);
  }
  return args;
}

void CpuBackend::RunGemm(const PackedMatrix& w, GemmArgs args) {
  if (args.rows == 0) return;
  const auto gemm = w.int8()                       ? kernels_.gemm_int8
                    : w.dtype() == DType::kFloat32 ? kernels_.gemm_fp32
                                                   : kernels_.gemm_bf16;
  const bool small = w.rows() * w.cols() * args.rows < kParallelMultiplyAdds;
  args.row_parts = small ? 1 : w.RowParts(args.rows, pool_->threads());
  const int64_t units = int64_t{w.blocks()} * args.row_parts;
  pool_->ParallelFor(units, small ? units : 1,
                     [&](int64_t unit, int32_t) { gemm(args, static_cast<int32_t>(unit)); });
}

void CpuBackend::MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) {
  const Activation& i = At(activations_, in);
  const PackedMatrix& m = At(matrices_, w);
  Activation& o = Output(out, i.rows, m.rows());
  ESPALIER_CHECK(!o.bf16);
  GemmArgs args = GemmOf(i, m, 0, i.rows);
  args.c = o.Floats(0);
  args.c_stride = o.stride;
  args.accumulate = mode == MatMulMode::kAccumulate;
  if (bias != VectorId::kNone) {
    const Vector& b = At(vectors_, bias);
    ESPALIER_CHECK(b.cols == m.rows());
    args.bias = b.values.as<float>();
  }
  RunGemm(m, args);
}

const CpuBackend::Activation& CpuBackend::CheckedQkv(const KvPool& kv, ActivationId qkv) {
  const Activation& a = Floats(qkv);
  CheckQkv(kv.shape(), kv.block_tokens(), *step_, a.rows, a.cols);
  return a;
}

void CpuBackend::RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) {
  const KvPool& pool = At(kv_pools_, kv);
  const Rotary* angles = spec.rotary == RotaryId::kNone ? nullptr : &At(rotaries_, spec.rotary);
  const float* query_norm = HeadNorm(vectors_, pool.shape(), spec.query_norm);
  const float* key_norm = HeadNorm(vectors_, pool.shape(), spec.key_norm);
  const Activation& a = CheckedQkv(pool, qkv);
  ESPALIER_CHECK(angles == nullptr || angles->shape.half * 2 == pool.shape().head_dim);
  const KvLayer kv_layer = pool.Layer(layer);
  ForRows(a.rows, a.cols, [&](int64_t row) {
    const int64_t kv_slot = step_->batch.KvSlotOfRow(static_cast<int32_t>(row));
    RotaryArgs args;
    args.qkv = a.Floats(row);
    if (angles != nullptr) {
      args.cosine = angles->At(step_->batch.row_position[static_cast<size_t>(row)]);
      args.sine = args.cosine + angles->shape.half;
    }
    args.query_norm = query_norm;
    args.key_norm = key_norm;
    args.epsilon = spec.epsilon;
    args.query_heads = pool.shape().query_heads;
    args.kv_heads = pool.shape().kv_heads;
    args.head_dim = pool.shape().head_dim;
    args.kv = kv_layer;
    args.kv_dtype = pool.shape().kv_dtype;
    args.block = kv_slot / pool.block_tokens();
    args.kv_slot = static_cast<int32_t>(kv_slot % pool.block_tokens());
    ESPALIER_CHECK(args.block < pool.blocks());
    kernels_.rotary_and_store(args);
  });
}

namespace {

// Bytes of the parts of AttentionScratch, each on a line of its own.
struct ScratchLayout {
  int64_t queries, scores, outputs, rows, tile, run;

  ScratchLayout(const KvPool& kv, int64_t item_rows, int64_t segment_spans) {
    const int64_t group = kv.shape().group();
    const int64_t packed = item_rows * group;
    queries = RoundUp(packed * kv.stored_dim() * 4, 64);
    scores = RoundUp(packed * kScoreStride * 4, 64);
    outputs = RoundUp(packed * kv.stored_dim() * 4, 64);
    rows = RoundUp(packed * 4, 64);
    tile = RoundUp(group * kv.Layer(0).stored_tokens * 4, 64);
    run = RoundUp(segment_spans * static_cast<int64_t>(sizeof(RunBlock)), 64);
  }
  int64_t bytes() const { return queries + scores + 2 * outputs + 4 * rows + tile + run; }
};

}  // namespace

void CpuBackend::ReserveScratch(const KvPool& kv, int32_t item_rows, int32_t segment_spans,
                                int64_t partials) {
  const ScratchLayout layout(kv, item_rows, segment_spans);
  for (Buffer& buffer : scratch_) Reserve<std::byte>(&buffer, layout.bytes());
  Reserve<float>(&partials_, partials * kv.shape().query_heads * (kv.stored_dim() + 2));
}

AttentionScratch CpuBackend::Scratch(const KvPool& kv, int32_t item_rows, int32_t segment_spans,
                                     int32_t thread) const {
  const ScratchLayout layout(kv, item_rows, segment_spans);
  auto* next = scratch_[static_cast<size_t>(thread)].as<std::byte>();
  const auto take = [&](int64_t bytes) {
    return reinterpret_cast<float*>(std::exchange(next, next + bytes));
  };
  AttentionScratch scratch;
  scratch.queries = take(layout.queries);
  scratch.scores = take(layout.scores);
  scratch.segment_out = take(layout.outputs);
  scratch.out = take(layout.outputs);
  scratch.segment_max = take(layout.rows);
  scratch.segment_sum = take(layout.rows);
  scratch.out_max = take(layout.rows);
  scratch.out_sum = take(layout.rows);
  scratch.tile = take(layout.tile);
  scratch.run = reinterpret_cast<RunBlock*>(take(layout.run));
  return scratch;
}

void CpuBackend::TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                               ActivationId out) {
  const auto begin = std::chrono::steady_clock::now();
  const KvPool& pool = At(kv_pools_, kv);
  const AttentionShape& shape = pool.shape();
  const AttentionPlan& plan = step_->plan;
  const Activation& in = CheckedQkv(pool, qkv);
  Activation& o = Output(out, in.rows, int64_t{shape.query_heads} * shape.head_dim);
  int32_t item_rows = 1;
  for (const PlanItem& item : plan.items) item_rows = std::max(item_rows, item.rows);
  const int32_t segment_spans = std::max(kv_spans_.max_segment_spans(), 1);
  ReserveScratch(pool, item_rows, segment_spans, plan.partials);

  AttentionArgs args;
  args.segments = kv_spans_.segments().data();
  args.spans = kv_spans_.spans().data();
  args.entries = plan.entries.data();
  args.row_position = step_->batch.row_position.data();
  args.row_subtree_end = step_->batch.row_subtree_end.data();
  args.qkv = in.Floats(0);
  args.qkv_stride = in.stride;
  args.kv = pool.Layer(layer);
  args.out = o.Row(0);
  args.out_stride = o.stride;
  args.out_bf16 = o.bf16;
  args.partials = partials_.as<float>();
  args.head_dim = shape.head_dim;
  args.stored_dim = pool.stored_dim();
  args.query_heads = shape.query_heads;
  args.kv_heads = shape.kv_heads;
  args.window = spec.window;
  args.scale_log2 = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(shape.head_dim)));
  const auto attend = shape.kv_dtype == DType::kFloat32 ? kernels_.attention_fp32 : kernels_.attention_bf16;
  const auto units = static_cast<int64_t>(plan.items.size()) * shape.kv_heads;
  const int64_t grain = std::max<int64_t>(1, units / (16 * pool_->threads()));
  pool_->ParallelFor(units, grain, [&](int64_t unit, int32_t thread) {
    attend(args, plan.items[static_cast<size_t>(unit / shape.kv_heads)],
           static_cast<int32_t>(unit % shape.kv_heads), Scratch(pool, item_rows, segment_spans, thread));
  });
  MergeRows(pool, o);
  attention_time_ += std::chrono::steady_clock::now() - begin;
}

void CpuBackend::MergeRows(const KvPool& kv, const Activation& out) {
  const AttentionPlan& plan = step_->plan;
  const auto rows = static_cast<int64_t>(plan.merge_rows.size());
  const int64_t grain = std::max<int64_t>(1, rows / (8 * pool_->threads()));
  pool_->ParallelFor(rows, grain, [&](int64_t i, int32_t thread) {
    const auto index = static_cast<size_t>(i);
    MergeArgs args;
    args.partials = partials_.as<float>();
    args.list = plan.merge_partials.data() + plan.merge_begin[index];
    args.count = plan.merge_begin[index + 1] - plan.merge_begin[index];
    args.query_heads = kv.shape().query_heads;
    args.head_dim = kv.shape().head_dim;
    args.stored_dim = kv.stored_dim();
    args.out = out.Row(plan.merge_rows[index]);
    args.out_bf16 = out.bf16;
    args.scratch = scratch_[static_cast<size_t>(thread)].as<float>();
    kernels_.merge_partials(args);
  });
}

void CpuBackend::SwiGlu(ActivationId in, ActivationId out) {
  const Activation& i = Floats(in);
  Activation& o = Output(out, i.rows, i.cols / 2);
  ForRows(i.rows, i.cols, [&](int64_t row) { kernels_.swiglu(i.Floats(row), o.cols, o.Row(row), o.bf16); });
}

void CpuBackend::GatherLogitRows(ActivationId in, ActivationId out) {
  const Activation& i = At(activations_, in);
  Activation& o = Output(out, static_cast<int64_t>(step_->logit_rows.size()), i.cols);
  ESPALIER_CHECK(i.bf16 == o.bf16);
  const size_t bytes = static_cast<size_t>(i.cols) * (i.bf16 ? sizeof(bf16_t) : sizeof(float));
  for (int64_t row = 0; row < o.rows; ++row) {
    const int32_t source = step_->logit_rows[static_cast<size_t>(row)];
    ESPALIER_CHECK(source >= 0 && source < i.rows);
    std::memcpy(o.Row(row), i.Row(source), bytes);
  }
}

void CpuBackend::Logits(ActivationId in, MatrixId head, int32_t first_row) {
  const Activation& i = At(activations_, in);
  const PackedMatrix& m = At(matrices_, head);
  ESPALIER_CHECK(static_cast<size_t>(i.rows) == step_->logit_rows.size());
  const int32_t rows = LogitRowsFrom(*step_, first_row);
  const int64_t stride = (int64_t{m.panels()} | 1) * kLanes;
  GemmArgs args = GemmOf(i, m, first_row, rows);
  args.c = Reserve<float>(&logits_, rows * stride);
  args.c_stride = stride;
  RunGemm(m, args);
  logit_rows_ = {args.c, stride, m.rows(), first_row, rows};
}

void CpuBackend::Sample() { SampleRows(*step_, logit_rows_, Parallel(), &sequences_, &result_); }

void CpuBackend::EndStep() {
  ESPALIER_CHECK(step_ != nullptr);
  result_.times.forward_us = Microseconds(std::chrono::steady_clock::now() - step_begin_);
  result_.times.attention_us = Microseconds(attention_time_);
  done_ = std::move(result_);
  step_ = nullptr;
}

Result<StepResult> CpuBackend::Wait() {
  ESPALIER_CHECK(done_.has_value());
  return *std::exchange(done_, std::nullopt);
}

}  // namespace espalier::cpu
