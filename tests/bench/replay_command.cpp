#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/model_command.h"
#include "tests/bench/replay.h"
#include "tests/bench/replay_request.h"
#include "tests/bench/tree_shape.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxBranches = 1 << 14;

class ReplayCommand final : public ModelCommand {
 public:
  explicit ReplayCommand(CLI::App* program);

  // Reads files, too. Damaged trees, which are left out, are reported on standard error.
  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunReplay(options_); }

 private:
  void ReadWorkloads(FlagReader* reader);
  void ReadRecorded(const std::string& path, FlagReader* reader);

  ReplayOptions options_;
  std::vector<std::string> trees_;
  std::vector<std::string> recorded_;
  std::string few_shot_;
  int32_t prompt_tokens_ = 4000;
  int32_t branch_tokens_ = 400;
  std::string weights_ = "dtype";
};

ReplayCommand::ReplayCommand(CLI::App* program)
    : ModelCommand(program, "replay", "Recorded trees with a random Llama, end to end") {
  AddList("--trees", recorded_, "File of recorded reasoning runs. Repeatable");
  AddList("--tree", trees_,
          "\"1,50;4000,200\": nodes of each level; tokens of each of its nodes, given for the first level. "
          "Repeatable");
  Add("--few-shot", few_shot_, "Branches below one prompt: a workload for each number");
  Add("--prompt-tokens", prompt_tokens_, "Tokens of the few-shot prompt");
  Add("--branch-tokens", branch_tokens_, "Tokens of a few-shot branch");
  Add("--windows", options_.windows, "Windows of each workload that are decoded, evenly spread over it");
  Add("--window-steps", options_.window_steps, "Steps of decoding in a window");
  Add("--repeats", options_.repeats, "How often a window is decoded, all modes in turn");
  AddShapeFlags(&options_.model);
  Add("--prefill-chunk-tokens", options_.prefill_chunk_tokens, "Most tokens of a prefill step");
  Add("--seed", options_.seed, "Of weights, tokens and sampling");
  Add("--weights", weights_, "Type of weights: dtype (as --dtype) or int8 (cpu and ref)");
  AddRunFlags(&options_.model);
  AddOutputFlags();
}

void ReplayCommand::Read(FlagReader* reader) {
  ReadModel(reader, &options_.model);
  reader->CheckRange("prompt-tokens", prompt_tokens_, 1, kMaxTokens);
  reader->CheckRange("branch-tokens", branch_tokens_, 1, kMaxTokens);
  reader->CheckRange("windows", options_.windows, 1, 1 << 20);
  reader->CheckRange("window-steps", options_.window_steps, 2, kMaxTokens);
  reader->CheckRange("repeats", options_.repeats, 1, 100000);
  reader->CheckRange("prefill-chunk-tokens", options_.prefill_chunk_tokens, 1, kMaxTokens);
  options_.modes = ReadModes(reader);
  options_.model.weights = reader->Weight("weights", weights_);
  if (reader->problems().empty()) ReadWorkloads(reader);
}

void ReplayCommand::ReadWorkloads(FlagReader* reader) {
  const auto add = [&](const TreeShape& shape) {
    options_.workloads.push_back({shape.name, {AsRecorded(shape)}});
  };
  for (const std::string& text : trees_) {
    const auto shape = ParseLevels(text);
    if (!shape)
      reader->Fail("tree", shape.error().message);
    else if (shape->nodes.size() < 2 || shape->nodes[1].parent < 0)
      reader->Fail("tree", "'" + text + "' must have one root with something below it");
    else
      add(*shape);
  }
  if (!few_shot_.empty()) {
    for (const int32_t branches : reader->Integers("few-shot", few_shot_, 1, kMaxBranches))
      add(FewShotShape(prompt_tokens_, branches, branch_tokens_));
  }
  for (const std::string& path : recorded_) ReadRecorded(path, reader);
  if (options_.workloads.empty() && reader->problems().empty())
    reader->Fail("trees", "give a workload: --trees, --tree or --few-shot");
}

void ReplayCommand::ReadRecorded(const std::string& path, FlagReader* reader) {
  auto trees = ReadRecordedTrees(path);
  if (!trees) {
    reader->Fail("trees", trees.error().message);
    return;
  }
  for (const std::string& damage : trees->damaged)
    std::fprintf(stderr, "left out: %s: %s\n", trees->name.c_str(), damage.c_str());
  const int32_t skipped = trees->skipped + static_cast<int32_t>(trees->damaged.size());
  options_.workloads.push_back({trees->name, std::move(trees->trees), skipped});
}

}  // namespace

std::unique_ptr<Command> MakeReplayCommand(CLI::App* program) {
  return std::make_unique<ReplayCommand>(program);
}

}  // namespace espalier::bench
