#include "tests/bench/decode_options.h"

#include <algorithm>
#include <cstdio>
#include <tuple>

#include "model/llama.h"
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

}  // namespace

LlamaConfig ModelOptions::Config(int32_t max_positions) const {
  LlamaConfig config;
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.intermediate_size = ffn;
  config.layers = layers;
  config.query_heads = query_heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.max_positions = max_positions;
  config.dtype = dtype;
  return config;
}

int32_t DecodeOptions::MaxRows(int32_t branch_count) const {
  return std::max(prefill_chunk_tokens, branch_count);
}

int32_t DecodeOptions::Blocks(int32_t branch_count) const {
  const int32_t block = model.block_tokens;
  // A branch's first block begins with a copy of the prompt's last, partly filled one.
  const int32_t of_branch = (block + new_tokens + block - 1) / block;
  return (prompt_tokens + block - 1) / block + 1 + branch_count * of_branch;
}

int32_t DecodeOptions::MostBranches() const { return *std::max_element(branches.begin(), branches.end()); }

RunnerOptions DecodeOptions::Runner() const {
  RunnerOptions runner;
  runner.backend.name = model.backend;
  runner.backend.isa = model.isa;
  runner.backend.dtype = model.dtype;
  runner.backend.threads = model.threads;
  runner.backend.max_rows = MaxRows(MostBranches());
  runner.block_tokens = model.block_tokens;
  runner.kv_blocks = Blocks(MostBranches());
  return runner;
}

int64_t DecodeOptions::MemoryBytes() const {
  const DType dtype = model.backend == "ref" ? DType::kFloat32 : model.dtype;
  const LlamaConfig config = model.Config(max_positions());
  const AttentionShape attention = AttentionOf(config, dtype);
  return config.Parameters() * static_cast<int64_t>(SizeOf(dtype)) +
         attention.KvBytesPerTokenLayer() * attention.layers * model.block_tokens * Blocks(MostBranches());
}

DecodeFlags::DecodeFlags(CLI::App* app)
    : command_(
          app->add_subcommand("decode", "Decodes branches of one prompt with a random Llama, end to end")) {
  const auto add = [this](const char* flag, auto& value, const char* help) {
    command_->add_option(flag, value, help)->capture_default_str()->take_last();
  };
  ModelOptions& model = options_.model;
  add("--layers", model.layers, "Layers of the model");
  add("--hidden", model.hidden, "Width of the residual stream");
  add("--ffn", model.ffn, "Width of the feed-forward network");
  add("--heads", heads_, "Query heads / KV heads");
  add("--head-dim", model.head_dim, "Width of a head");
  add("--vocab", model.vocab, "Tokens of the vocabulary; the embedding is not the head");
  add("--prompt-tokens", options_.prompt_tokens, "Random tokens of the prompt");
  add("--branches", branches_, "Branches that grow side by side from the prompt: a run for each number");
  add("--new-tokens", options_.new_tokens, "Tokens of each branch; the first is drawn at the end of prefill");
  add("--modes", modes_,
      "Attention modes, a run for each: flatten, sequence, masked, node, node_chunk; or all");
  add("--dtype", dtype_, "Type of weights and KV: bfloat16 or float32");
  add("--backend", model.backend, "What runs the model: cpu or ref");
  add("--isa", model.isa, "Instruction set of the cpu backend: auto, avx512, avx2, portable");
  add("--threads", model.threads, "Threads; 0: every core");
  add("--block-tokens", model.block_tokens, "Tokens of a KV block");
  add("--prefill-chunk-tokens", options_.prefill_chunk_tokens, "Most tokens of a prefill step");
  add("--repeats", options_.repeats, "How often each run is repeated, all modes in turn");
  add("--seed", options_.seed, "Of weights, prompt and sampling");
  add("--peak-buffer-bytes", model.peak_buffer_bytes, "Memory that is read to measure the bandwidth");
  command_->add_flag("--json", json_, "One JSON object instead of a table");
  command_->add_option("--json-file", json_file_, "File that gets the JSON object, whatever is printed");
}

DecodeOptions DecodeFlags::Read(FlagReader* reader) const {
  DecodeOptions options = options_;
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
  reader->CheckOneOf("backend", model.backend, {"cpu", "ref"});
  model.dtype = reader->Type("dtype", dtype_);
  std::tie(model.query_heads, model.kv_heads) = reader->Heads("heads", heads_);
  options.branches = reader->Integers("branches", branches_, 1, kMaxBranches);
  options.modes = reader->Modes("modes", modes_);
  if (!reader->problems().empty()) return options;

  const int64_t blocks = int64_t{options.MostBranches()} * options.new_tokens / model.block_tokens;
  if (blocks > (1 << 24)) {
    reader->Fail("branches", "with --new-tokens: the KV cache has more than 2^24 blocks");
    return options;
  }
  const auto available = AvailableMemoryBytes();
  if (available && options.MemoryBytes() > *available) {
    reader->Fail("layers", "weights and KV cache take " + Gibibytes(options.MemoryBytes()) + ", only " +
                               Gibibytes(*available) + " of memory are free");
  }
  return options;
}

}  // namespace espalier::bench
