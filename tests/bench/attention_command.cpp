#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <tuple>
#include <utility>

#include "tests/bench/attention.h"
#include "tests/bench/attention_options.h"
#include "tests/bench/command.h"
#include "tests/bench/recorded_trees.h"
#include "tests/bench/time_list.h"

namespace espalier::bench {

namespace {

constexpr int32_t kMaxRows = 1 << 14;
constexpr int32_t kMaxTokens = 1 << 20;

// `samples` steps spread evenly over all steps of all trees; 0: every one.
std::vector<TreeShape> SampleSteps(const std::vector<RecordedTree>& trees, int32_t samples) {
  int64_t total = 0;
  for (const RecordedTree& tree : trees) total += tree.steps();
  const int64_t stride = samples == 0 ? 1 : std::max<int64_t>(1, total / samples);
  std::vector<TreeShape> steps;
  int64_t next = stride / 2;  // counted over all trees
  int64_t first = 0;
  for (const RecordedTree& tree : trees) {
    for (; next < first + tree.steps(); next += stride) {
      TreeShape shape = tree.At(static_cast<int32_t>(next - first) + 1);
      if (shape.rows() > 0) steps.push_back(std::move(shape));
    }
    first += tree.steps();
  }
  return steps;
}

class AttentionCommand final : public Command {
 public:
  explicit AttentionCommand(CLI::App* program);

  // Reads files, too. Damaged trees, which are left out, are reported on standard error.
  void Read(FlagReader* reader) override;
  Result<Report> Run() override;

 private:
  void ReadWorkloads(FlagReader* reader);
  void ReadRecorded(const std::string& path, FlagReader* reader);
  void ReadTokenTrees(FlagReader* reader);
  void ReadPeers(const std::string& path, FlagReader* reader);
  void AddShape(TreeShape shape) { options_.workloads.push_back({shape.name, {shape}}); }

  AttentionOptions options_;
  std::vector<std::string> trees_;
  std::vector<std::string> recorded_;
  std::vector<std::string> token_trees_;
  std::string few_shot_;
  std::string prefill_;
  int32_t prompt_tokens_ = 4000;
  int32_t branch_tokens_ = 200;
  int32_t samples_ = 64;
  std::string heads_ = "32/8";
  std::string modes_ = "flatten,sequence";
  std::string dtype_ = "bfloat16";
  std::string shapes_out_;
  std::vector<std::string> peer_times_;
};

AttentionCommand::AttentionCommand(CLI::App* program)
    : Command(program, "attention", "Attention alone, every mode over the same trees") {
  options_.shape.head_dim = 128;
  AddList("--tree", trees_,
          "\"1,50;4000,200\": nodes of each level; tokens of each of its nodes. One row a leaf. Repeatable");
  AddList("--trees", recorded_, "File of recorded reasoning runs, replayed step by step. Repeatable");
  Add("--samples", samples_, "Steps of a file of recorded runs, evenly spread; 0: every step");
  Add("--few-shot", few_shot_, "Branches below one prompt: a workload for each number");
  AddList("--token-tree", token_trees_,
          "Token tree of speculative decoding: a file with Tree_Structure, or a number of rows. Repeatable");
  Add("--prefill", prefill_, "Rows of a chunk behind --prompt-tokens tokens: a workload for each number");
  Add("--prompt-tokens", prompt_tokens_, "Tokens above few-shot branches, token trees and prefill chunks");
  Add("--branch-tokens", branch_tokens_, "Tokens of a few-shot branch, the row's own included");
  Add("--heads", heads_, "Query heads / KV heads");
  Add("--head-dim", options_.shape.head_dim, "Width of a head");
  Add("--dtype", dtype_, "Type of KV: bfloat16 or float32");
  Add("--modes", modes_,
      "Attention modes, a run for each: flatten, sequence, masked, node, node_chunk; or all");
  Add("--backend", options_.backend.name, "What computes: cpu, cuda or ref");
  Add("--isa", options_.backend.isa, "Instruction set of the cpu backend: auto, amx, avx512, avx2, portable");
  Add("--threads", options_.backend.threads, "Threads; 0: every core");
  Add("--block-tokens", options_.block_tokens, "Tokens of a KV block");
  AddFlag("--scatter-blocks", options_.scatter_blocks,
          "A tree's blocks lie anywhere in the pool, not one after the other");
  Add("--layers", options_.layers,
      "Layers that take turns; 0: as many as hold --cold-bytes of KV, 64 at most");
  Add("--cold-bytes", options_.cold_bytes,
      "KV that is read before any is read again: more than the caches hold");
  Add("--processors", options_.processors,
      "Processors that the plan spreads work over; 0: those of the backend");
  Add("--repeats", options_.repeats, "How often each step runs, all modes in turn");
  Add("--checked-rows", options_.checked_rows,
      "Rows of each workload's last step that are compared with fp64");
  Add("--peak-buffer-bytes", options_.peak_buffer_bytes, "Memory that is read to measure the bandwidth");
  Add("--peak-gb-per-s", options_.peak_gb_per_s, "Memory bandwidth of the GPU, as cuda_ceilings measures it");
  Add("--peak-tflop-per-s", options_.peak_tflop_per_s,
      "Rate of bf16 GEMM of the GPU, measured in the same way");
  Add("--shapes-out", shapes_out_, "File for the workloads as plain JSON, with this run's times");
  AddList("--peer-times", peer_times_,
          "File of the same form with times of other kernels, to compare with this run's. Repeatable");
  AddOutputFlags();
}

Result<Report> AttentionCommand::Run() {
  std::ofstream shapes;
  if (!shapes_out_.empty()) shapes.open(shapes_out_);
  const Error unwritable = InvalidArgument("shapes-out", "'" + shapes_out_ + "' cannot be written");
  if (shapes.fail()) return unwritable;
  auto report = RunAttention(options_);
  if (!report || !shapes.is_open()) return report;
  if (!(shapes << ShapeList(options_.workloads, options_.shape, report->rows) << std::flush))
    return unwritable;
  return report;
}

void AttentionCommand::Read(FlagReader* reader) {
  AttentionOptions& options = options_;
  reader->CheckRange("head-dim", options.shape.head_dim, 2, 512);
  reader->CheckRange("samples", samples_, 0, 1 << 30);
  reader->CheckRange("prompt-tokens", prompt_tokens_, 0, kMaxTokens);
  reader->CheckRange("branch-tokens", branch_tokens_, 1, kMaxTokens);
  reader->CheckRange("threads", options.backend.threads, 0, 1024);
  reader->CheckRange("layers", options.layers, 0, 1024);
  reader->CheckRange("cold-bytes", options.cold_bytes, 0, int64_t{1} << 40);
  reader->CheckRange("processors", options.processors, 0, 1 << 20);
  reader->CheckRange("repeats", options.repeats, 1, 100000);
  reader->CheckRange("checked-rows", options.checked_rows, 0, kMaxRows);
  reader->CheckRange("peak-buffer-bytes", options.peak_buffer_bytes, 1 << 20, int64_t{1} << 40);
  reader->CheckRange("block-tokens", options.block_tokens, 1, kSegmentTokens);
  if (options.block_tokens > 0 && kSegmentTokens % options.block_tokens != 0)
    reader->Fail("block-tokens", "must divide " + std::to_string(kSegmentTokens));
  reader->CheckOneOf("backend", options.backend.name, {"cpu", "cuda", "ref"});
  const bool cuda = options.backend.name == "cuda";
  if (cuda && !(options.peak_gb_per_s > 0.0))
    reader->Fail("peak-gb-per-s", "must be given with --backend cuda: what the GPU's memory reaches");
  if (cuda && !(options.peak_tflop_per_s > 0.0))
    reader->Fail("peak-tflop-per-s", "must be given with --backend cuda: what the GPU's GEMM reaches");
  options.shape.kv_dtype = reader->Type("dtype", dtype_);
  options.backend.dtype = options.shape.kv_dtype;
  std::tie(options.shape.query_heads, options.shape.kv_heads) = reader->Heads("heads", heads_);
  options.modes = reader->Modes("modes", modes_);
  for (const std::string& path : peer_times_) ReadPeers(path, reader);
  if (reader->problems().empty()) ReadWorkloads(reader);
  for (const AttentionWorkload& workload : options.workloads) {
    for (const TreeShape& step : workload.steps)
      options.backend.max_rows = std::max(options.backend.max_rows, step.rows());
  }
  if (options.backend.max_rows > kMaxRows)
    reader->Fail("tree", "a step has more than " + std::to_string(kMaxRows) + " rows");
}

void AttentionCommand::ReadWorkloads(FlagReader* reader) {
  for (const std::string& text : trees_) {
    auto shape = ParseLevels(text);
    if (shape)
      AddShape(*std::move(shape));
    else
      reader->Fail("tree", shape.error().message);
  }
  if (!few_shot_.empty()) {
    for (const int32_t branches : reader->Integers("few-shot", few_shot_, 1, kMaxRows))
      AddShape(FewShotShape(prompt_tokens_, branches, branch_tokens_));
  }
  for (const std::string& path : recorded_) ReadRecorded(path, reader);
  ReadTokenTrees(reader);
  if (!prefill_.empty()) {
    for (const int32_t rows : reader->Integers("prefill", prefill_, 1, kMaxRows))
      AddShape(PrefillShape(prompt_tokens_, rows));
  }
  if (options_.workloads.empty() && reader->problems().empty())
    reader->Fail("tree", "give a workload: --tree, --trees, --few-shot, --token-tree or --prefill");
}

void AttentionCommand::ReadRecorded(const std::string& path, FlagReader* reader) {
  const auto trees = ReadRecordedTrees(path);
  if (!trees) {
    reader->Fail("trees", trees.error().message);
    return;
  }
  for (const std::string& damage : trees->damaged)
    std::fprintf(stderr, "left out: %s: %s\n", trees->name.c_str(), damage.c_str());
  AttentionWorkload workload;
  workload.name = trees->name;
  workload.steps = SampleSteps(trees->trees, samples_);
  workload.trees = static_cast<int32_t>(trees->trees.size());
  workload.skipped_trees = trees->skipped + static_cast<int32_t>(trees->damaged.size());
  options_.workloads.push_back(std::move(workload));
}

void AttentionCommand::ReadPeers(const std::string& path, FlagReader* reader) {
  const auto entries = ReadPeerTimes(path);
  if (entries)
    options_.peers.insert(options_.peers.end(), entries->begin(), entries->end());
  else
    reader->Fail("peer-times", entries.error().message);
}

void AttentionCommand::ReadTokenTrees(FlagReader* reader) {
  for (const std::string& text : token_trees_) {
    int32_t rows = 0;
    const char* end = text.data() + text.size();
    if (const auto parsed = std::from_chars(text.data(), end, rows);
        parsed.ec == std::errc() && parsed.ptr == end) {
      reader->CheckRange("token-tree", rows, 1, kMaxRows);
      if (rows < 1 || rows > kMaxRows) continue;
      AddShape(TokenTreeShape("token tree " + text, prompt_tokens_, BinaryTokenTree(rows)));
      continue;
    }
    auto parents = ReadTokenTree(text);
    if (!parents) {
      reader->Fail("token-tree", parents.error().message);
      continue;
    }
    const std::string name = std::filesystem::path(text).stem().string();
    AddShape(TokenTreeShape(name, prompt_tokens_, *std::move(parents)));
  }
}

}  // namespace

std::unique_ptr<Command> MakeAttentionCommand(CLI::App* program) {
  return std::make_unique<AttentionCommand>(program);
}

}  // namespace espalier::bench
