#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <tuple>

#include "tests/bench/command.h"
#include "tests/bench/decode.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/machine.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxBranches = 1 << 14;

std::string Gibibytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

class DecodeCommand final : public Command {
 public:
  explicit DecodeCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunDecode(options_); }

 private:
  DecodeOptions options_;
  std::string heads_ = "32/8";
  std::string branches_ = "1,20,50";
  std::string modes_ = "flatten,sequence";
  std::string dtype_ = "bfloat16";
};

DecodeCommand::DecodeCommand(CLI::App* program)
    : Command(program, "decode", "Decodes branches of one prompt with a random Llama, end to end") {
  ModelOptions& model = options_.model;
  Add("--layers", model.layers, "Layers of the model");
  Add("--hidden", model.hidden, "Width of the residual stream");
  Add("--ffn", model.ffn, "Width of the feed-forward network");
  Add("--heads", heads_, "Query heads / KV heads");
  Add("--head-dim", model.head_dim, "Width of a head");
  Add("--vocab", model.vocab, "Tokens of the vocabulary; the embedding is not the head");
  Add("--prompt-tokens", options_.prompt_tokens, "Random tokens of the prompt");
  Add("--branches", branches_, "Branches that grow side by side from the prompt: a run for each number");
  Add("--new-tokens", options_.new_tokens, "Tokens of each branch; the first is drawn at the end of prefill");
  Add("--modes", modes_,
      "Attention modes, a run for each: flatten, sequence, masked, node, node_chunk; or all");
  Add("--dtype", dtype_, "Type of weights and KV: bfloat16 or float32");
  Add("--backend", model.backend, "What runs the model: cpu, cuda or ref");
  Add("--isa", model.isa, "Instruction set of the cpu backend: auto, avx512, avx2, portable");
  Add("--threads", model.threads, "Threads; 0: every core");
  Add("--block-tokens", model.block_tokens, "Tokens of a KV block");
  Add("--prefill-chunk-tokens", options_.prefill_chunk_tokens, "Most tokens of a prefill step");
  Add("--repeats", options_.repeats, "How often each run is repeated, all modes in turn");
  Add("--seed", options_.seed, "Of weights, prompt and sampling");
  Add("--peak-buffer-bytes", model.peak_buffer_bytes, "Memory that is read to measure the bandwidth");
  Add("--peak-gb-per-s", model.peak_gb_per_s, "Memory bandwidth of the GPU, as cuda_ceilings measures it");
  Add("--peak-tflop-per-s", model.peak_tflop_per_s, "Rate of bf16 products of the GPU, likewise");
  AddOutputFlags();
}

void DecodeCommand::Read(FlagReader* reader) {
  DecodeOptions& options = options_;
  ModelOptions& model = options.model;
  reader->CheckRange("layers", model.layers, 1, 1024);
  reader->CheckRange("hidden", model.hidden, 1, 1 << 16);
  reader->CheckRange("ffn", model.ffn, 1, 1 << 18);
  reader->CheckRange("vocab", model.vocab, 2, 1 << 20);
  reader->CheckRange("head-dim", model.head_dim, 2, 512);
  if (model.head_dim % 2 != 0)
    reader->Fail("head-dim", "must be even, got " + std::to_string(model.head_dim));
  reader->CheckRange("prompt-tokens", options.prompt_tokens, 1, kMaxTokens);
  reader->CheckRange("new-tokens", options.new_tokens, 2, kMaxTokens);
  reader->CheckRange("threads", model.threads, 0, 1024);
  reader->CheckRange("prefill-chunk-tokens", options.prefill_chunk_tokens, 1, kMaxTokens);
  reader->CheckRange("repeats", options.repeats, 1, 1000);
  reader->CheckRange("block-tokens", model.block_tokens, 1, kSegmentTokens);
  if (model.block_tokens > 0 && kSegmentTokens % model.block_tokens != 0)
    reader->Fail("block-tokens", "must divide " + std::to_string(kSegmentTokens));
  reader->CheckRange("peak-buffer-bytes", model.peak_buffer_bytes, 1 << 20, int64_t{1} << 40);
  reader->CheckOneOf("backend", model.backend, {"cpu", "cuda", "ref"});
  if (model.backend == "cuda" && !(model.peak_gb_per_s > 0.0))
    reader->Fail("peak-gb-per-s", "must be given with --backend cuda: what the GPU's memory reaches");
  if (model.backend == "cuda" && !(model.peak_tflop_per_s > 0.0))
    reader->Fail("peak-tflop-per-s", "must be given with --backend cuda: what the GPU's products reach");
  model.dtype = reader->Type("dtype", dtype_);
  std::tie(model.query_heads, model.kv_heads) = reader->Heads("heads", heads_);
  options.branches = reader->Integers("branches", branches_, 1, kMaxBranches);
  options.modes = reader->Modes("modes", modes_);
  if (!reader->problems().empty()) return;

  const int64_t blocks = int64_t{options.MostBranches()} * options.new_tokens / model.block_tokens;
  if (blocks > (1 << 24)) {
    reader->Fail("branches", "with --new-tokens: the KV cache has more than 2^24 blocks");
    return;
  }
  if (model.backend == "cuda") return;  // the device says itself what does not fit
  const auto available = AvailableMemoryBytes();
  if (available && options.MemoryBytes() > *available) {
    reader->Fail("layers", "weights and KV cache take " + Gibibytes(options.MemoryBytes()) + ", only " +
                               Gibibytes(*available) + " of memory are free");
  }
}

}  // namespace

std::unique_ptr<Command> MakeDecodeCommand(CLI::App* program) {
  return std::make_unique<DecodeCommand>(program);
}

}  // namespace espalier::bench
