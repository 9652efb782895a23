#include <algorithm>
#include <memory>
#include <string>

#include "tests/bench/decode.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/model_command.h"

namespace espalier::bench {
namespace {

constexpr int32_t kMaxTokens = 1 << 20;
constexpr int32_t kMaxBranches = 1 << 14;

class DecodeCommand final : public ModelCommand {
 public:
  explicit DecodeCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunDecode(options_); }

 private:
  DecodeOptions options_;
  std::string branches_ = "1,20,50";
  std::string weights_ = "dtype";
};

DecodeCommand::DecodeCommand(CLI::App* program)
    : ModelCommand(program, "decode", "Decodes branches of one prompt with a random Llama, end to end") {
  AddShapeFlags(&options_.model);
  Add("--prompt-tokens", options_.prompt_tokens, "Random tokens of the prompt");
  Add("--branches", branches_, "Branches that grow side by side from the prompt: a run for each number");
  Add("--new-tokens", options_.new_tokens,
      "Tokens of each branch; the first is sampled at the end of prefill");
  Add("--prefill-chunk-tokens", options_.prefill_chunk_tokens, "Most tokens of a prefill step");
  Add("--repeats", options_.repeats, "How often each run is repeated, all modes in turn");
  Add("--seed", options_.seed, "Of weights, prompt and sampling");
  Add("--weights", weights_, "Types of weights, a model for each: dtype (as --dtype), int8 (cpu and ref)");
  AddRunFlags(&options_.model);
  AddOutputFlags();
}

void DecodeCommand::Read(FlagReader* reader) {
  DecodeOptions& options = options_;
  ReadModel(reader, &options.model);
  reader->CheckRange("prompt-tokens", options.prompt_tokens, 1, kMaxTokens);
  reader->CheckRange("new-tokens", options.new_tokens, 2, kMaxTokens);
  reader->CheckRange("prefill-chunk-tokens", options.prefill_chunk_tokens, 1, kMaxTokens);
  reader->CheckRange("repeats", options.repeats, 1, 1000);
  options.branches = reader->Integers("branches", branches_, 1, kMaxBranches);
  options.modes = ReadModes(reader);
  options.weights = reader->Weights("weights", weights_);
  if (!reader->problems().empty()) return;

  const int64_t blocks = int64_t{options.MaxBranches()} * options.new_tokens / options.model.block_tokens;
  if (blocks > (1 << 24))
    reader->Fail("branches", "with --new-tokens: the KV cache has more than 2^24 blocks");
  else
    CheckMemory(reader, options.model, options.MemoryBytes());
}

}  // namespace

std::unique_ptr<Command> MakeDecodeCommand(CLI::App* program) {
  return std::make_unique<DecodeCommand>(program);
}

}  // namespace espalier::bench
