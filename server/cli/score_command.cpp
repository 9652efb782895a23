#include <cstdio>

#include "espalier/v1/tree.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/flags.h"
#include "server/cli/json_lines.h"
#include "server/cli/manual.h"

namespace espalier::cli {
namespace {

struct ScoreOptions {
  std::string prompt_ids;
  std::vector<std::string> continuations;
  std::optional<int32_t> top_logprobs;
  bool cache_bypass = false;
};

int Score(const ScoreOptions& options, const CommonOptions& common) {
  v1::ScoreRequest request;
  const std::vector<int32_t> prompt = ParseIds("--prompt-ids", options.prompt_ids);
  request.mutable_prompt()->mutable_ids()->Add(prompt.begin(), prompt.end());
  for (const std::string& text : options.continuations) {
    const std::vector<int32_t> ids = ParseIds("--continuation-ids", text);
    request.add_continuations()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  request.set_top_logprobs(options.top_logprobs.value_or(0));
  request.set_cache_bypass(options.cache_bypass);

  const auto stub = v1::TreeService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::ScoreResponse response;
  const grpc::Status status = stub->Score(&context, request, &response);
  if (!common.json && status.ok()) std::printf("%12s  %12s  %6s  ids\n", "sum", "mean", "tokens");
  for (int i = 0; i < response.scores_size(); ++i) {
    const v1::ContinuationScore& score = response.scores(i);
    if (common.json) {
      PrintLine(ToJson(score, i));
      continue;
    }
    std::printf("%12.4f  %12.4f  %6d  %s\n", score.sum_logprob(), score.mean_logprob(),
                score.token_ids_size(), options.continuations[static_cast<size_t>(i)].c_str());
  }
  return Report(status, common.server, common.json);
}

}  // namespace

void AddScore(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand("score", "Log-probabilities of continuations of one prompt");
  command->add_option("--prompt-ids", options->prompt_ids, "Token ids of the prompt, as 1,2,3; required")
      ->type_name("IDS")
      ->required();
  command
      ->add_option("--continuation-ids", options->continuations,
                   "Token ids of a continuation; required, may be given several times")
      ->type_name("IDS")
      ->required()
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  AddInteger(*command, "--top-logprobs", options->top_logprobs, 0, 20,
             "With --json, report the N most likely tokens at each position, in [0, 20] [0]");
  command->add_flag("--cache-bypass", options->cache_bypass,
                    "Neither use nor fill the server's prefix cache");
  Describe(
      *command,
      {.usage = "--prompt-ids IDS --continuation-ids IDS... [options]",
       .more = "Natural logarithms, of the model's own distribution. The prompt is computed once for all "
               "continuations. For texts instead of token ids see configs/trees/scoring.json.",
       .examples = {{"Two ways to go on:",
                     "espalier score --prompt-ids 1,5 --continuation-ids 7 --continuation-ids 8,9"}},
       .exit_codes = {},
       .see = {}});
  command->callback([options, &common, &run] {
    ParseIds("--prompt-ids", options->prompt_ids);
    for (const std::string& ids : options->continuations) ParseIds("--continuation-ids", ids);
    run = [options, &common] { return Score(*options, common); };
  });
}

}  // namespace espalier::cli
