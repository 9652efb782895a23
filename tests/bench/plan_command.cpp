#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/bench/command.h"
#include "tests/bench/plan.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxRows = 1 << 14;
constexpr int32_t kMaxTokens = 1 << 20;

class PlanCommand final : public Command {
 public:
  explicit PlanCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunPlanBench(options_); }

 private:
  void ReadWorkloads(FlagReader* reader);

  PlanBenchOptions options_;
  std::vector<std::string> trees_;
  std::string few_shot_;
  std::string token_tree_;
  std::string prefill_;
  int32_t prompt_tokens_ = 4000;
  int32_t branch_tokens_ = 200;
  std::string heads_ = "32/8";
  std::string modes_ = "flatten,sequence";
};

PlanCommand::PlanCommand(CLI::App* program)
    : Command(program, "plan", "The planner alone, as the engine calls it once a step") {
  options_.shape.head_dim = 128;
  AddList("--tree", trees_,
          "\"1,50;4000,200\": nodes of each level; tokens of each of its nodes. One row a leaf. Repeatable");
  Add("--few-shot", few_shot_, "Branches below one prompt: a workload for each number");
  Add("--token-tree", token_tree_, "Rows of a token tree: a workload for each number");
  Add("--prefill", prefill_, "Rows of a chunk behind --prompt-tokens tokens: a workload for each number");
  Add("--prompt-tokens", prompt_tokens_, "Tokens above few-shot branches, token trees and prefill chunks");
  Add("--branch-tokens", branch_tokens_, "Tokens of a few-shot branch, the row's own included");
  Add("--heads", heads_, "Query heads / KV heads");
  Add("--head-dim", options_.shape.head_dim, "Width of a head");
  Add("--modes", modes_, "Attention modes: flatten, sequence, masked, node, node_chunk; or all");
  Add("--backend", options_.backend.name, "Whose tiles and processors are planned for: cpu, cuda or ref");
  Add("--threads", options_.backend.threads, "Threads of the cpu backend; 0: every core");
  Add("--block-tokens", options_.block_tokens, "Tokens of a KV block");
  Add("--processors", options_.processors,
      "Processors that the plan spreads work over; 0: those of the backend");
  Add("--repeats", options_.repeats, "How often each is planned, all modes in turn");
  AddOutputFlags();
}

void PlanCommand::Read(FlagReader* reader) {
  PlanBenchOptions& options = options_;
  reader->CheckRange("head-dim", options.shape.head_dim, 2, 512);
  reader->CheckRange("prompt-tokens", prompt_tokens_, 0, kMaxTokens);
  reader->CheckRange("branch-tokens", branch_tokens_, 1, kMaxTokens);
  reader->CheckRange("threads", options.backend.threads, 0, 1024);
  reader->CheckRange("processors", options.processors, 0, 1 << 20);
  reader->CheckRange("repeats", options.repeats, 1, 1000000);
  reader->CheckRange("block-tokens", options.block_tokens, 1, kSegmentTokens);
  if (options.block_tokens > 0 && kSegmentTokens % options.block_tokens != 0)
    reader->Fail("block-tokens", "must divide " + std::to_string(kSegmentTokens));
  reader->CheckOneOf("backend", options.backend.name, {"cpu", "cuda", "ref"});
  std::tie(options.shape.query_heads, options.shape.kv_heads) = reader->Heads("heads", heads_);
  options.modes = reader->Modes("modes", modes_);
  if (reader->problems().empty()) ReadWorkloads(reader);
}

void PlanCommand::ReadWorkloads(FlagReader* reader) {
  for (const std::string& text : trees_) {
    auto shape = ParseLevels(text);
    if (!shape) {
      reader->Fail("tree", shape.error().message);
    } else if (shape->rows() > kMaxRows) {
      reader->Fail("tree", "'" + text + "' has more than " + std::to_string(kMaxRows) + " rows");
    } else {
      options_.workloads.push_back(*std::move(shape));
    }
  }
  const auto numbers = [&](const char* flag, const std::string& text) {
    return text.empty() ? std::vector<int32_t>() : reader->Integers(flag, text, 1, kMaxRows);
  };
  for (const int32_t branches : numbers("few-shot", few_shot_))
    options_.workloads.push_back(FewShotShape(prompt_tokens_, branches, branch_tokens_));
  for (const int32_t rows : numbers("token-tree", token_tree_)) {
    options_.workloads.push_back(
        TokenTreeShape("token tree " + std::to_string(rows), prompt_tokens_, BinaryTokenTree(rows)));
  }
  for (const int32_t rows : numbers("prefill", prefill_))
    options_.workloads.push_back(PrefillShape(prompt_tokens_, rows));
  if (options_.workloads.empty() && reader->problems().empty())
    reader->Fail("tree", "give a workload: --tree, --few-shot, --token-tree or --prefill");
}

}  // namespace

std::unique_ptr<Command> MakePlanCommand(CLI::App* program) { return std::make_unique<PlanCommand>(program); }

}  // namespace espalier::bench
