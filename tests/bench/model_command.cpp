#include "tests/bench/model_command.h"

#include <cstdio>
#include <tuple>

#include "tests/bench/machine.h"

namespace espalier::bench {

namespace {

std::string Gibibytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

}  // namespace

void ModelCommand::AddShapeFlags(ModelOptions* model) {
  Add("--layers", model->layers, "Layers of the model");
  Add("--hidden", model->hidden, "Width of the residual stream");
  Add("--ffn", model->ffn, "Width of the feed-forward network");
  Add("--heads", heads_, "Query heads / KV heads");
  Add("--head-dim", model->head_dim, "Width of a head");
  Add("--vocab", model->vocab, "Tokens of the vocabulary; the embedding is not the head");
}

void ModelCommand::AddRunFlags(ModelOptions* model) {
  Add("--modes", modes_,
      "Attention modes, a run for each: flatten, sequence, masked, node, node_chunk; or all");
  Add("--dtype", dtype_, "Type of weights and KV: bfloat16 or float32");
  Add("--backend", model->backend, "What runs the model: cpu, cuda or ref");
  Add("--isa", model->isa, "Instruction set of the cpu backend: auto, amx, avx512, avx2, portable");
  Add("--threads", model->threads, "Threads; 0: every core");
  Add("--block-tokens", model->block_tokens, "Tokens of a KV block");
  Add("--peak-buffer-bytes", model->peak_buffer_bytes, "Memory that is read to measure the bandwidth");
  Add("--peak-gb-per-s", model->peak_gb_per_s, "Memory bandwidth of the GPU, as cuda_ceilings measures it");
  Add("--peak-tflop-per-s", model->peak_tflop_per_s,
      "Rate of bf16 GEMM of the GPU, measured in the same way");
}

void ModelCommand::ReadModel(FlagReader* reader, ModelOptions* model) const {
  reader->CheckRange("layers", model->layers, 1, 1024);
  reader->CheckRange("hidden", model->hidden, 1, 1 << 16);
  reader->CheckRange("ffn", model->ffn, 1, 1 << 18);
  reader->CheckRange("vocab", model->vocab, 2, 1 << 20);
  reader->CheckRange("head-dim", model->head_dim, 2, 512);
  if (model->head_dim % 2 != 0)
    reader->Fail("head-dim", "must be even, got " + std::to_string(model->head_dim));
  reader->CheckRange("threads", model->threads, 0, 1024);
  reader->CheckRange("block-tokens", model->block_tokens, 1, kSegmentTokens);
  if (model->block_tokens > 0 && kSegmentTokens % model->block_tokens != 0)
    reader->Fail("block-tokens", "must divide " + std::to_string(kSegmentTokens));
  reader->CheckRange("peak-buffer-bytes", model->peak_buffer_bytes, 1 << 20, int64_t{1} << 40);
  reader->CheckOneOf("backend", model->backend, {"cpu", "cuda", "ref"});
  if (model->backend == "cuda" && !(model->peak_gb_per_s > 0.0))
    reader->Fail("peak-gb-per-s", "must be given with --backend cuda: what the GPU's memory reaches");
  if (model->backend == "cuda" && !(model->peak_tflop_per_s > 0.0))
    reader->Fail("peak-tflop-per-s", "must be given with --backend cuda: what the GPU's GEMM reaches");
  model->dtype = reader->Type("dtype", dtype_);
  std::tie(model->query_heads, model->kv_heads) = reader->Heads("heads", heads_);
}

void ModelCommand::CheckMemory(FlagReader* reader, const ModelOptions& model, int64_t bytes) {
  if (model.backend == "cuda") return;  // the device says itself what does not fit
  const auto available = AvailableMemoryBytes();
  if (available && bytes > *available) {
    reader->Fail("layers", "weights and KV cache take " + Gibibytes(bytes) + ", only " +
                               Gibibytes(*available) + " of memory are free");
  }
}

}  // namespace espalier::bench
