#include <memory>
#include <string>

#include "engine/tree_request.h"
#include "tests/bench/model_command.h"
#include "tests/bench/score.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxCandidates = kMaxNodesPerRequest - 1;

class ScoreCommand final : public ModelCommand {
 public:
  explicit ScoreCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunScore(options_); }

 private:
  ScoreOptions options_;
  std::string weights_ = "dtype";
};

ScoreCommand::ScoreCommand(CLI::App* program)
    : ModelCommand(program, "score", "Scores candidates after one prompt with a random Llama, end to end") {
  AddShapeFlags(&options_.model);
  Add("--prompt-tokens", options_.prompt_tokens, "Random tokens of the prompt");
  Add("--candidates", options_.candidates, "Candidates that are scored");
  Add("--candidate-tokens", options_.candidate_tokens, "Random tokens of each");
  Add("--max-rows", options_.max_rows, "Most tokens of a step");
  Add("--repeats", options_.repeats, "How often all is run, all modes in turn");
  Add("--seed", options_.seed, "Of weights and tokens");
  Add("--weights", weights_, "Type of weights: dtype (as --dtype) or int8 (cpu and ref)");
  AddRunFlags(&options_.model);
  AddOutputFlags();
}

void ScoreCommand::Read(FlagReader* reader) {
  ReadModel(reader, &options_.model);
  reader->CheckRange("prompt-tokens", options_.prompt_tokens, 1, kMaxTokens);
  reader->CheckRange("candidates", options_.candidates, 1, kMaxCandidates);
  reader->CheckRange("candidate-tokens", options_.candidate_tokens, 1, kMaxTokens);
  reader->CheckRange("max-rows", options_.max_rows, 1, kMaxTokens);
  reader->CheckRange("repeats", options_.repeats, 1, 1000);
  options_.modes = ReadModes(reader);
  options_.model.weights = reader->Weight("weights", weights_);
  if (!reader->problems().empty()) return;
  const int64_t blocks =
      int64_t{options_.candidates} * (options_.candidate_tokens / options_.model.block_tokens + 2);
  if (blocks > (1 << 24))
    reader->Fail("candidates", "with --candidate-tokens: the KV cache has more than 2^24 blocks");
  else
    CheckMemory(reader, options_.model, options_.MemoryBytes());
}

}  // namespace

std::unique_ptr<Command> MakeScoreCommand(CLI::App* program) {
  return std::make_unique<ScoreCommand>(program);
}

}  // namespace espalier::bench
