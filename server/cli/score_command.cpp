#include <algorithm>
#include <cmath>
#include <cstdio>

#include "espalier/v1/tree.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/flags.h"
#include "server/cli/json_input.h"
#include "server/cli/json_lines.h"
#include "server/console/manual.h"

namespace espalier::cli {
namespace {

struct ScoreOptions {
  std::string prompt;
  std::string prompt_ids;
  std::vector<std::string> texts;
  std::vector<std::string> ids;
  bool jsonl = false;
  bool parse_special = false;
  bool label_softmax = false;
  std::optional<int32_t> top_logprobs;
  bool cache_bypass = false;
};

// The continuations of a request, and how each is shown.
class Continuations {
 public:
  explicit Continuations(v1::ScoreRequest& request) : request_(request) {}

  // Returns what is wrong, or nothing.
  std::string AddText(const std::string& text) {
    if (request_.continuations_size() > 0)
      return "a text, and those before it are token ids: all of one kind";
    request_.add_continuation_texts(text);
    shown_.push_back(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
    return "";
  }
  std::string AddIds(const std::vector<int32_t>& ids) {
    if (request_.continuation_texts_size() > 0)
      return "token ids, and those before it are texts: all of one kind";
    request_.add_continuations()->mutable_ids()->Add(ids.begin(), ids.end());
    shown_.push_back(Json(ids).dump());
    return "";
  }
  LineOutcome AddLine(const Json& json) {
    if (json.is_string()) return {.wrong = AddText(json.get<std::string>())};
    std::vector<int32_t> ids;
    if (!json.is_array()) return {.wrong = "must be a string or an array of token ids"};
    std::string wrong = ReadValue(json, ids);
    return {.wrong = wrong.empty() ? AddIds(ids) : wrong};
  }
  const std::string& Shown(int i) const { return shown_[static_cast<size_t>(i)]; }

 private:
  v1::ScoreRequest& request_;
  std::vector<std::string> shown_;
};

// What each continuation's probability is if one of them must follow.
std::vector<double> LabelSoftmax(const v1::ScoreResponse& response) {
  std::vector<double> probabilities;
  double max = -HUGE_VAL;
  for (const v1::ContinuationScore& score : response.scores()) max = std::max(max, score.sum_logprob());
  double sum = 0.0;
  for (const v1::ContinuationScore& score : response.scores()) {
    probabilities.push_back(std::exp(score.sum_logprob() - max));
    sum += probabilities.back();
  }
  for (double& probability : probabilities) probability /= sum;
  return probabilities;
}

void Print(const v1::ScoreResponse& response, const ScoreOptions& options, const Continuations& continuations,
           bool as_json) {
  std::vector<double> softmax;
  if (options.label_softmax) softmax = LabelSoftmax(response);
  if (!as_json) {
    std::printf("%12s  %12s  %s%6s  continuation\n", "sum", "mean", options.label_softmax ? "softmax  " : "",
                "tokens");
  }
  for (int i = 0; i < response.scores_size(); ++i) {
    const v1::ContinuationScore& score = response.scores(i);
    if (as_json) {
      Json line = ToJson(score, i);
      if (options.label_softmax) line["label_softmax"] = softmax[static_cast<size_t>(i)];
      PrintLine(line);
      continue;
    }
    std::printf("%12.4f  %12.4f  ", score.sum_logprob(), score.mean_logprob());
    if (options.label_softmax) std::printf("%7.4f  ", softmax[static_cast<size_t>(i)]);
    std::printf("%6d  %s\n", score.token_ids_size(), continuations.Shown(i).c_str());
  }
  if (as_json) PrintLine(ScoreUsageToJson(response.usage()));
}

int Score(const ScoreOptions& options, const CommonOptions& common) {
  v1::ScoreRequest request;
  Continuations continuations(request);
  if (options.prompt_ids.empty()) {
    request.set_prompt_text(options.prompt);
  } else {
    const std::vector<int32_t> prompt = ParseIds("--prompt-ids", options.prompt_ids);
    request.mutable_prompt()->mutable_ids()->Add(prompt.begin(), prompt.end());
  }
  for (const std::string& text : options.texts) continuations.AddText(text);
  for (const std::string& ids : options.ids) continuations.AddIds(ParseIds("--continuation-ids", ids));
  if (options.jsonl) {
    const int code = ForEachJsonLine([&](const Json& json) { return continuations.AddLine(json); });
    if (code != kExitDone) return code;
  }
  request.set_parse_special(options.parse_special);
  request.set_top_logprobs(options.top_logprobs.value_or(0));
  request.set_cache_bypass(options.cache_bypass);

  const auto stub = v1::TreeService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::ScoreResponse response;
  const grpc::Status status = stub->Score(&context, request, &response);
  if (status.ok()) Print(response, options, continuations, common.json);
  return Report(status, common.server, common.json);
}

void CheckGiven(const ScoreOptions& options, bool has_prompt) {
  if (has_prompt != options.prompt_ids.empty())
    throw CLI::ValidationError("score", has_prompt ? "takes only one of --prompt and --prompt-ids"
                                                   : "needs --prompt or --prompt-ids");
  const int kinds = (options.texts.empty() ? 0 : 1) + (options.ids.empty() ? 0 : 1) + (options.jsonl ? 1 : 0);
  if (kinds != 1)
    throw CLI::ValidationError("score", "needs --continuation, --continuation-ids or --jsonl, one of them");
  if (!options.prompt_ids.empty()) ParseIds("--prompt-ids", options.prompt_ids);
  for (const std::string& ids : options.ids) ParseIds("--continuation-ids", ids);
}

}  // namespace

void AddScore(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command = app.add_subcommand("score", "Log-probabilities of continuations of one prompt");
  CLI::Option* prompt =
      command->add_option("--prompt", options->prompt, "Text of the prompt")->type_name("TEXT");
  command->add_option("--prompt-ids", options->prompt_ids, "Or its token ids, as 1,2,3")->type_name("IDS");
  const auto repeated = [&](const char* flag, std::vector<std::string>& values, const char* help) {
    return command->add_option(flag, values, help)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  repeated("--continuation", options->texts,
           "Text that goes on after the prompt's; may be given several times")
      ->type_name("TEXT");
  repeated("--continuation-ids", options->ids, "Or its token ids; may be given several times")
      ->type_name("IDS");
  command->add_flag("--jsonl", options->jsonl,
                    "Or read continuations from standard input: JSON strings, or arrays of ids, one a line");
  command->add_flag("--label-softmax", options->label_softmax,
                    "Report each continuation's probability among all of them");
  command->add_flag("--parse-special", options->parse_special,
                    "Recognise special tokens, such as </s>, in the texts");
  AddInteger(*command, "--top-logprobs", options->top_logprobs, 0, 20,
             "With --json, report the N most likely tokens at each position, in [0, 20] [0]");
  command->add_flag("--cache-bypass", options->cache_bypass,
                    "Neither use nor fill the server's prefix cache");
  Describe(
      *command,
      {.usage = "(--prompt TEXT | --prompt-ids IDS) (--continuation TEXT... | --continuation-ids IDS... | "
                "--jsonl) [options]",
       .more =
           "Natural logarithms, of the model's own distribution. The prompt, and what continuations begin "
           "with alike, is computed once. A continuation's text goes on where the prompt's ends: a space "
           "between them belongs to one of the two, mostly to the continuation.",
       .examples = {{"How likely the model calls a step right:",
                     "espalier score \\\n"
                     "--prompt $'numbers 2 3 8 12 target 31\\n8 * 2 = 16 left 3 12 16 :' \\\n"
                     "--continuation ' ok' --continuation ' bad' --label-softmax"},
                    {"By token ids:",
                     "espalier score --prompt-ids 1,5 --continuation-ids 7 --continuation-ids 8,9"}},
       .exit_codes = {},
       .see = {}});
  command->callback([options, prompt, &common, &run] {
    CheckGiven(*options, prompt->count() > 0);
    run = [options, &common] { return Score(*options, common); };
  });
}

}  // namespace espalier::cli
