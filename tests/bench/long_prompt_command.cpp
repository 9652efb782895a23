#include <memory>

#include "tests/bench/long_prompt.h"
#include "tests/bench/model_command.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxTokens = 1 << 20;

class LongPromptCommand final : public ModelCommand {
 public:
  explicit LongPromptCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunLongPrompt(options_); }

 private:
  LongPromptOptions options_;
};

LongPromptCommand::LongPromptCommand(CLI::App* program)
    : ModelCommand(program, "long-prompt", "Decodes branches next to a long prompt, with a random Llama") {
  AddShapeFlags(&options_.model);
  Add("--branches", options_.branches, "Branches that decode");
  Add("--long-tokens", options_.long_tokens, "Random tokens of the prompt that comes while they do");
  Add("--cached-tokens", options_.cached_tokens, "Of these, tokens that are computed before");
  Add("--short-tokens", options_.short_tokens, "Random tokens of the prompt that comes behind it");
  Add("--steps", options_.steps, "Steps that are measured without the long prompt, and with it");
  Add("--prefill-chunk-tokens", options_.prefill_chunk_tokens, "Most tokens of prompts in a step");
  Add("--repeats", options_.repeats, "How often all is run, both ways in turn");
  Add("--seed", options_.seed, "Of weights, prompts and sampling");
  AddRunFlags(&options_.model);
  AddOutputFlags();
}

void LongPromptCommand::Read(FlagReader* reader) {
  ReadModel(reader, &options_.model);
  reader->CheckRange("branches", options_.branches, 1, 1 << 14);
  reader->CheckRange("long-tokens", options_.long_tokens, 2, kMaxTokens);
  reader->CheckRange("cached-tokens", options_.cached_tokens, 0, options_.long_tokens - 1);
  reader->CheckRange("short-tokens", options_.short_tokens, 1, kMaxTokens);
  reader->CheckRange("steps", options_.steps, 4, 100'000);
  reader->CheckRange("prefill-chunk-tokens", options_.prefill_chunk_tokens, 1, kMaxTokens);
  reader->CheckRange("repeats", options_.repeats, 1, 1000);
  if (Given("--modes")) options_.modes = ReadModes(reader);
  if (reader->problems().empty()) CheckMemory(reader, options_.model, options_.MemoryBytes());
}

}  // namespace

std::unique_ptr<Command> MakeLongPromptCommand(CLI::App* program) {
  return std::make_unique<LongPromptCommand>(program);
}

}  // namespace espalier::bench
