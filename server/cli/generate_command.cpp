#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "espalier/v1/tree.grpc.pb.h"
#include "kernels/base/mutex.h"
#include "model/tokenizer/utf8.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/flags.h"
#include "server/cli/json_lines.h"
#include "server/cli/live_view.h"
#include "server/cli/tree_file.h"
#include "server/cli/tree_model.h"
#include "server/cli/tree_view.h"
#include "server/console/manual.h"
#include "server/console/terminal.h"
#include "server/console/text.h"

namespace espalier::cli {
namespace {

struct GenerateOptions {
  std::string tree_file;
  std::vector<std::string> set;
  std::string prompt;
  std::string prompt_ids;
  std::optional<int32_t> branches;
  std::optional<int32_t> max_new_tokens;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::optional<int32_t> top_logprobs;
  bool cache_bypass = false;
  bool return_prompt_ids = false;
  bool return_logprobs = false;
  std::optional<float> timeout_s;
  std::string colour = "auto";
  std::optional<int32_t> width;
  std::optional<int32_t> prompt_lines;
  bool watch = true;
  bool full = false;
  bool best = false;
  std::string record;
};

int Complain(const std::string& problem) {
  std::fprintf(stderr, "error: %s\n", PrintableLines(problem).c_str());
  return kExitUsage;
}

// The text of a tree file; "-" is standard input. Returns what is wrong, or nothing.
std::string ReadText(const std::string& path, std::string& text) {
  std::stringstream content;
  if (path == "-") {
    content << std::cin.rdbuf();
  } else {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) return "is a folder";
    std::ifstream file(path);
    if (!file) return std::string("cannot be read: ") + std::strerror(errno);
    content << file.rdbuf();
  }
  text = content.str();
  return "";
}

int ReadTreeFile(const GenerateOptions& options, v1::GenerateRequest& request,
                 std::optional<TreeFile>& tree_file) {
  const std::string name = options.tree_file == "-" ? "standard input" : options.tree_file;
  std::string text;
  if (const std::string fault = ReadText(options.tree_file, text); !fault.empty()) {
    return Complain(name + ": " + fault);
  }
  tree_file.emplace(name, std::move(text));
  for (const std::string& assignment : options.set) {
    if (FindInvalidUtf8(assignment) != std::string::npos) {
      return Complain("--set: " + assignment.substr(0, assignment.find('=')) + ": not valid UTF-8");
    }
    if (const std::string fault = tree_file->Set(assignment); !fault.empty())
      return Complain("--set: " + fault);
  }
  const std::vector<std::string> problems = tree_file->Read(request);
  for (const std::string& problem : problems) Complain(problem);
  return problems.empty() ? kExitDone : kExitUsage;
}

void MakeRequest(const GenerateOptions& options, v1::GenerateRequest& request) {
  v1::TreeNode& root = *request.add_nodes();
  root.set_id("prompt");
  if (!options.prompt_ids.empty()) {
    const std::vector<int32_t> ids = ParseIds("--prompt-ids", options.prompt_ids);
    root.mutable_given()->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  } else {
    root.mutable_given()->set_text(options.prompt);
  }
  v1::TreeNode& answer = *request.add_nodes();
  answer.set_id("answer");
  answer.set_parent_id("prompt");
  v1::Generate& generate = *answer.mutable_generate();
  generate.set_branches(options.branches.value_or(1));
  generate.set_max_new_tokens(options.max_new_tokens.value_or(64));
  for (const std::string& stop : options.stop) generate.add_stop_strings(stop);
  generate.set_ignore_eos(options.ignore_eos);
  generate.set_top_logprobs(options.top_logprobs.value_or(0));
  v1::Sampling& sampling = *generate.mutable_sampling();
  if (options.temperature) sampling.set_temperature(*options.temperature);
  sampling.set_top_k(options.top_k.value_or(0));
  if (options.top_p) sampling.set_top_p(*options.top_p);
  sampling.set_min_p(options.min_p.value_or(0.0F));
}

// The flag that sets a field of what MakeRequest makes: nodes[1].generate.sampling.top_k is --top-k.
std::string FlagOfField(const std::string& field) {
  if (field.find(".given.") != std::string::npos) {
    return field.find("token_ids") != std::string::npos ? "--prompt-ids" : "--prompt";
  }
  if (field.find("stop_strings") != std::string::npos) return "--stop";
  return FlagOf(field.substr(field.rfind('.') + 1));
}

// A tree that one thread feeds and another draws.
struct GrowingTree {
  explicit GrowingTree(const v1::GenerateRequest& request) : model(request) {}
  Mutex mutex;
  TreeModel model ESPALIER_GUARDED_BY(mutex);
};

ViewOptions ViewOf(const GenerateOptions& options, int width) {
  return {.width = options.width.value_or(width),
          .colour = UseColour(options.colour, STDOUT_FILENO),
          .prompt_lines = options.prompt_lines.value_or(4),
          .full = options.full};
}

// The tree on the whole screen, where it is to be watched; else, where someone looks, a line on what it does.
std::unique_ptr<LiveView> StartView(const GenerateOptions& options, bool as_json, GrowingTree& tree) {
  using std::chrono::milliseconds;
  if (as_json) return nullptr;
  if (options.watch && !options.best && IsTerminal(STDOUT_FILENO)) {
    const auto draw = [&options, &tree](TerminalSize size, double seconds) {
      // In the last column some terminals erase what has just been written.
      ViewOptions view = ViewOf(options, size.columns - 1);
      view.full = false;  // what grows is shown at its end
      const MutexLock lock(tree.mutex);
      std::vector<std::string> lines = FitRows(DrawTree(tree.model, view), std::max(3, size.rows - 1), view);
      lines.resize(std::min(lines.size(), static_cast<size_t>(std::max(0, size.rows - 1))));
      lines.push_back(DescribeProgress(tree.model, seconds, size.columns - 1));
      return lines;
    };
    return LiveView::OnScreen(STDOUT_FILENO, milliseconds(150), draw);
  }
  if (!IsTerminal(STDERR_FILENO)) return nullptr;
  const auto draw = [&tree](TerminalSize size, double seconds) {
    const MutexLock lock(tree.mutex);
    return std::vector<std::string>{DescribeProgress(tree.model, seconds, size.columns - 1)};
  };
  return LiveView::OnLine(STDERR_FILENO, milliseconds(500), draw);
}

// Returns the exit code.
int PrintTree(const GenerateOptions& options, const TreeModel& tree) {
  if (options.best) {
    if (!tree.finished()) return kExitDone;  // the reason is reported
    const int32_t best = tree.Best();
    if (best < 0) {
      std::fprintf(stderr, "error: --best: the tree has no branch\n");
      return kExitFailed;
    }
    std::string text = TextFor(STDOUT_FILENO, tree.PathText(best));
    if (text.empty() || text.back() != '\n') text += '\n';
    std::fwrite(text.data(), 1, text.size(), stdout);
    return kExitDone;
  }
  if (tree.started().request_id() == 0) return kExitDone;
  const ViewOptions view = ViewOf(options, SizeOf(STDOUT_FILENO).columns);
  std::vector<std::string> lines;
  for (DrawnLine& line : DrawTree(tree, view)) lines.push_back(std::move(line.text));
  if (tree.finished()) {
    for (std::string& line : DescribeUsage(tree, view.width)) lines.push_back(std::move(line));
  }
  PrintLines(lines);
  return kExitDone;
}

// What ended the call; of a tree that ran out of time, in words that say how far it got.
grpc::Status EndOf(const grpc::Status& status, const GenerateOptions& options, const TreeModel& tree) {
  if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED || !options.timeout_s) return status;
  std::array<char, 32> seconds{};
  std::snprintf(seconds.data(), seconds.size(), "%g", static_cast<double>(*options.timeout_s));
  return {status.error_code(), "not finished after --timeout " + std::string(seconds.data()) + " seconds (" +
                                   DescribeReached(tree) + "); the request was cancelled on the server"};
}

int Generate(const GenerateOptions& options, const CommonOptions& common) {
  v1::GenerateRequest request;
  std::optional<TreeFile> tree_file;
  if (options.tree_file.empty()) {
    MakeRequest(options, request);
  } else if (const int code = ReadTreeFile(options, request, tree_file); code != kExitDone) {
    return code;
  }
  if (options.seed) request.set_seed(*options.seed);
  if (options.cache_bypass) request.set_cache_bypass(true);
  if (options.return_prompt_ids) request.set_return_prompt_ids(true);
  if (options.return_logprobs) request.set_return_logprobs(true);

  std::ofstream record;
  if (!options.record.empty()) {
    record.open(options.record, std::ios::trunc);
    if (!record) return Complain("--record: cannot write " + options.record + ": " + std::strerror(errno));
  }

  const auto stub = v1::TreeService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  if (options.timeout_s) {
    const std::chrono::microseconds timeout(std::llround(double{*options.timeout_s} * 1e6));
    context.set_deadline(std::chrono::system_clock::now() + timeout);
  }
  const CancelOnSignal cancel(context);
  GrowingTree tree(request);
  auto view = StartView(options, common.json, tree);
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (record.is_open()) record << ToJson(response).dump() << '\n';
    if (common.json) PrintLine(ToJson(response));
    const MutexLock lock(tree.mutex);
    tree.model.Apply(response);
  }
  const grpc::Status ended = reader->Finish();
  view.reset();
  const MutexLock lock(tree.mutex);
  const grpc::Status status = EndOf(ended, options, tree.model);
  const int printed = common.json ? kExitDone : PrintTree(options, tree.model);
  const int code = Report(status, common.server, common.json);
  if (const std::string field = FieldOf(status.error_message()); !field.empty()) {
    std::fprintf(stderr, "It stands at %s\n",
                 Printable(tree_file ? tree_file->PlaceOf(field) : FlagOfField(field)).c_str());
  }
  if (record.is_open() && !record.flush()) {
    std::fprintf(stderr, "error: --record: could not write all of %s\n", options.record.c_str());
    return code == kExitDone ? kExitFailed : code;
  }
  return code == kExitDone ? printed : code;
}

void AddSource(CLI::App& command, GenerateOptions& options) {
  constexpr const char* kGroup = "What to grow (one of the first three)";
  command
      .add_option("--tree", options.tree_file,
                  "Tree file: a GenerateRequest as JSON, // comments accepted; - reads standard input")
      ->type_name("FILE")
      ->group(kGroup);
  command.add_option("--prompt", options.prompt, "Text of the root")->type_name("TEXT")->group(kGroup);
  command.add_option("--prompt-ids", options.prompt_ids, "Token ids of the root, as 1,2,3")
      ->type_name("IDS")
      ->group(kGroup);
  command
      .add_option("--set", options.set,
                  "Set a field of a node of the tree file, e.g. problem.text=TEXT or step.branches=4; may be "
                  "given several times")
      ->type_name("NODE.FIELD=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(kGroup);
}

constexpr const char* kShapeGroup = "How to grow a prompt (a tree file says this itself)";

void AddShape(CLI::App& command, GenerateOptions& options) {
  AddInteger(command, "--branches", options.branches, 1, INT32_MAX, "Branches to grow from the prompt [1]")
      ->group(kShapeGroup);
  AddInteger(command, "--max-new-tokens", options.max_new_tokens, 1, INT32_MAX,
             "Tokens after which a branch ends [64]")
      ->group(kShapeGroup);
  AddReal(command, "--temperature", options.temperature, {0.0, 100.0},
          "0: always the most likely token; (0, 100] scales the distribution [1]")
      ->group(kShapeGroup);
  AddInteger(command, "--top-k", options.top_k, 0, INT32_MAX,
             "Draw from the N most likely tokens; 0: from all [0]")
      ->group(kShapeGroup);
  AddReal(command, "--top-p", options.top_p, {0.0, 1.0, /*without_min=*/true},
          "Draw from the fewest most likely tokens whose probabilities add up to this, in (0, 1] [1]")
      ->group(kShapeGroup);
  AddReal(command, "--min-p", options.min_p, {0.0, 1.0},
          "Draw from tokens at least this likely relative to the most likely one, in [0, 1] [0]")
      ->group(kShapeGroup);
  command.add_option("--stop", options.stop, "A branch ends before this text; may be given several times")
      ->type_name("TEXT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(kShapeGroup);
  command.add_flag("--ignore-eos", options.ignore_eos, "Go on after the model's end-of-sequence token")
      ->group(kShapeGroup);
  AddInteger(command, "--top-logprobs", options.top_logprobs, 0, 20,
             "With --json, report the N most likely tokens at each position, in [0, 20] [0]")
      ->group(kShapeGroup);
}

void AddRun(CLI::App& command, GenerateOptions& options) {
  constexpr const char* kGroup = "The run";
  AddUnsigned(command, "--seed", options.seed,
              "Seed of all draws, in [0, 2^64): same server, request and seed, same tree [the tree file's, "
              "else chosen by the server]")
      ->group(kGroup);
  AddReal(command, "--timeout", options.timeout_s, {0.0, 86400.0, /*without_min=*/true},
          "Cancel a tree that is not finished after this time, and print what was received, in (0, 86400] "
          "[no limit]")
      ->type_name("SECONDS")
      ->group(kGroup);
  command.add_flag("--cache-bypass", options.cache_bypass, "Neither use nor fill the server's prefix cache")
      ->group(kGroup);
  command
      .add_flag("--return-prompt-ids", options.return_prompt_ids,
                "With --json, have `started` carry the prompt's token ids")
      ->group(kGroup);
  command
      .add_flag("--return-logprobs", options.return_logprobs,
                "With --json, have `finished` carry the log-probabilities of tokens")
      ->group(kGroup);
  command
      .add_option("--record", options.record,
                  "Write the events to this file too, as --json prints them, one JSON object a line")
      ->type_name("FILE")
      ->group(kGroup);
}

void AddDrawing(CLI::App& command, GenerateOptions& options) {
  constexpr const char* kGroup = "The drawing";
  command
      .add_flag("--watch,!--no-watch", options.watch,
                "Show the tree on the whole screen while it grows, at most 15 times a second, then print it "
                "[on, where standard output is a terminal]")
      ->group(kGroup);
  command
      .add_flag(
          "--best", options.best,
          "Print nothing but the text of the best path: the one that the last selection put first, else "
          "the most likely one (sum of the log-probabilities of generated and scored tokens)")
      ->group(kGroup);
  command.add_flag("--full", options.full, "Print long texts over several lines instead of cutting them")
      ->group(kGroup);
  command
      .add_option(
          "--color", options.colour,
          "auto, always or never; auto heeds NO_COLOR and CLICOLOR_FORCE, and colours terminals [auto]")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->type_name("WHEN")
      ->group(kGroup);
  AddInteger(command, "--width", options.width, 20, 10000,
             "Columns of a line [the terminal's; else $COLUMNS, else 120]")
      ->group(kGroup);
  AddInteger(command, "--prompt-lines", options.prompt_lines, 2, INT32_MAX,
             "Lines of the prompt to show, at least 2 [4]")
      ->group(kGroup);
}

void CheckTogether(const CLI::App& command, const CommonOptions& common) {
  const auto count = [&](const char* flag) { return command.get_option(flag)->count(); };
  const bool tree = count("--tree") > 0;
  const size_t sources = count("--tree") + count("--prompt") + count("--prompt-ids");
  if (sources != 1) {
    throw CLI::ValidationError("generate", sources == 0
                                               ? "needs --tree, --prompt or --prompt-ids"
                                               : "takes only one of --tree, --prompt and --prompt-ids");
  }
  if (!tree && count("--set") > 0) throw CLI::ValidationError("--set", "needs --tree");
  if (count("--best") > 0 && common.json) throw CLI::ValidationError("--best", "excludes --json");
  for (const CLI::Option* flag : command.get_options()) {
    if (tree && flag->get_group() == kShapeGroup && flag->count() > 0) {
      throw CLI::ValidationError(flag->get_name(), "a tree file says this itself; see --set");
    }
  }
}

}  // namespace

void AddGenerate(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Grow a tree of text and draw it");
  AddSource(*command, *options);
  AddShape(*command, *options);
  AddRun(*command, *options);
  AddDrawing(*command, *options);
  Describe(
      *command,
      {.usage = "(--tree FILE | --prompt TEXT | --prompt-ids IDS) [options]",
       .more = "The tree is drawn with the trunk that all branches share once, a branch a line. Scores stand "
               "behind what they weigh, as natural logarithms; ✗ was pruned by a selection, ★ is the best "
               "path, ×3 stands for three equal pruned branches, ▌ is where a branch grows; 'error' is where "
               "the model's numbers overflowed. Ctrl-C cancels on the server and prints what was received.",
       .examples = {{"Eight answers to one prompt; a blank line ends an answer:",
                     "espalier generate --prompt $'numbers 5 8 12 12 target 24\\n' --branches 8 \\\n--stop "
                     "$'\\n\\n'"},
                    {"A search that checks itself:",
                     "espalier generate --tree configs/trees/tree_of_thoughts.json"},
                    {"The same search on another problem, for a script:",
                     "espalier generate --tree configs/trees/tree_of_thoughts.json --best \\\n"
                     "--timeout 30 --set problem.text=$'numbers 2 5 6 9 target 33\\n'"}},
       .exit_codes =
           "0 done; 1 failed, or not finished within --timeout; 2 wrong usage or file; 3 the server "
           "cannot be reached; 130 interrupted by Ctrl-C.",
       .see = "A tree file is a GenerateRequest; every field is described in proto/espalier/v1/tree.proto. "
              "Examples: configs/trees."});
  command->callback([options, command, &common, &run] {
    CheckTogether(*command, common);
    if (command->get_option("--tree")->count() > 0 && options->tree_file.empty()) {
      throw CLI::ValidationError("--tree", "must name a file, or - for standard input");
    }
    if (command->get_option("--prompt-ids")->count() > 0) ParseIds("--prompt-ids", options->prompt_ids);
    run = [options, &common] { return Generate(*options, common); };
  });
}

}  // namespace espalier::cli
