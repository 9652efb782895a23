#include <google/protobuf/util/json_util.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>

#include "espalier/v1/tree.grpc.pb.h"
#include "kernels/base/result.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_lines.h"
#include "server/cli/tree_model.h"
#include "server/cli/tree_view.h"

namespace espalier::cli {
namespace {

struct GenerateOptions {
  std::string tree_file;
  std::string prompt;
  std::string prompt_ids;
  int32_t branches = 1;
  int32_t max_new_tokens = 64;
  std::optional<float> temperature;
  int32_t top_k = 0;
  std::optional<float> top_p;
  float min_p = 0.0F;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int32_t top_logprobs = 0;
  bool cache_bypass = false;
  std::string colour = "auto";
  int prompt_lines = 4;
  std::string record;
};

int ComplainOf(const std::string& file, const std::string& problem) {
  std::fprintf(stderr, "error: %s: %s\n", file == "-" ? "standard input" : file.c_str(), problem.c_str());
  return kExitUsage;
}

// The JSON text without its comments. Writing JSON is recursive in the library: what no request could mean is
// refused before.
Result<std::string> WithoutComments(const std::string& text) {
  constexpr int kMaxDepth = 64;
  bool too_deep = false;
  const auto measure = [&](int depth, Json::parse_event_t /*event*/, Json& /*parsed*/) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  try {
    const Json json = Json::parse(text, measure, /*allow_exceptions=*/true, /*ignore_comments=*/true);
    if (too_deep) return InvalidArgument("", "not a tree request: nested too deeply");
    return json.dump();
  } catch (const Json::exception& error) {
    return InvalidArgument("", std::string("not valid JSON: ") + error.what());
  }
}

// The file is a GenerateRequest in protobuf's JSON form; // comments are accepted.
int ReadTreeFile(const std::string& path, v1::GenerateRequest& request) {
  std::stringstream content;
  if (path == "-") {
    content << std::cin.rdbuf();
  } else {
    std::ifstream file(path);
    if (!file) return ComplainOf(path, "cannot be read");
    content << file.rdbuf();
  }
  const Result<std::string> plain = WithoutComments(content.str());
  if (!plain) return ComplainOf(path, plain.error().message);
  const auto status = google::protobuf::util::JsonStringToMessage(*plain, &request);
  if (status.ok()) return kExitDone;
  return ComplainOf(path, "not a tree request: " + std::string(status.message()));
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
  generate.set_branches(options.branches);
  generate.set_max_new_tokens(options.max_new_tokens);
  for (const std::string& stop : options.stop) generate.add_stop_strings(stop);
  generate.set_ignore_eos(options.ignore_eos);
  generate.set_top_logprobs(options.top_logprobs);
  v1::Sampling& sampling = *generate.mutable_sampling();
  if (options.temperature) sampling.set_temperature(*options.temperature);
  sampling.set_top_k(options.top_k);
  if (options.top_p) sampling.set_top_p(*options.top_p);
  sampling.set_min_p(options.min_p);
}

// Draws the tree in place while it grows.
class Screen {
 public:
  Screen(const TreeModel& tree, const GenerateOptions& options) : tree_(tree), options_(options) {
    is_terminal_ = isatty(STDOUT_FILENO) == 1;
    const char* no_colour = std::getenv("NO_COLOR");
    const bool wanted = is_terminal_ && (no_colour == nullptr || *no_colour == '\0');
    colour_ = options.colour == "always" || (options.colour == "auto" && wanted);
  }

  void Update() {
    if (!is_terminal_) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - last_draw_ < std::chrono::milliseconds(50)) return;
    last_draw_ = now;
    const winsize size = Size();
    std::vector<std::string> lines = Lines(size.ws_col);
    const size_t room = size.ws_row > 2 ? size.ws_row - 2U : 1U;
    if (lines.size() > room) {
      const size_t hidden = lines.size() - room + 1;
      lines.resize(room - 1);
      lines.push_back("… " + std::to_string(hidden) + " more lines …");
    }
    Erase();
    Print(lines);
    drawn_lines_ = lines.size();
  }

  void Finish() {
    Erase();
    Print(Lines(Size().ws_col));
    if (tree_.finished()) std::printf("%s\n", DescribeUsage(tree_).c_str());
  }

 private:
  static winsize Size() {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
      size.ws_col = 120;
      size.ws_row = 50;
    }
    return size;
  }
  std::vector<std::string> Lines(int width) const {
    return DrawTree(tree_, {.width = width, .colour = colour_, .prompt_lines = options_.prompt_lines});
  }
  void Erase() {
    if (drawn_lines_ > 0) std::printf("\x1b[%zuA\x1b[J", drawn_lines_);
    drawn_lines_ = 0;
  }
  static void Print(const std::vector<std::string>& lines) {
    for (const std::string& line : lines) std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  const TreeModel& tree_;
  const GenerateOptions& options_;
  bool is_terminal_ = false;
  bool colour_ = false;
  size_t drawn_lines_ = 0;
  std::chrono::steady_clock::time_point last_draw_;
};

int Generate(const GenerateOptions& options, const CommonOptions& common) {
  v1::GenerateRequest request;
  if (options.tree_file.empty()) {
    MakeRequest(options, request);
  } else if (const int code = ReadTreeFile(options.tree_file, request); code != kExitDone) {
    return code;
  }
  if (options.seed) request.set_seed(*options.seed);
  if (options.cache_bypass) request.set_cache_bypass(true);

  std::ofstream record;
  if (!options.record.empty()) {
    record.open(options.record, std::ios::trunc);
    if (!record) {
      std::fprintf(stderr, "error: --record: cannot write %s\n", options.record.c_str());
      return kExitUsage;
    }
  }

  const auto stub = v1::TreeService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  TreeModel tree(request);
  Screen screen(tree, options);
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (record.is_open()) record << ToJson(response).dump() << '\n';
    if (common.json) {
      PrintLine(ToJson(response));
      continue;
    }
    tree.Apply(response);
    screen.Update();
  }
  const grpc::Status status = reader->Finish();
  if (!common.json && tree.started().request_id() != 0) screen.Finish();
  return Report(status, common.server, common.json);
}

}  // namespace

void AddGenerate(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Grow a tree of text and watch it");
  auto* source = command->add_option_group("source", "What to grow");
  CLI::Option* tree = source->add_option(
      "--tree", options->tree_file,
      "Tree file: a GenerateRequest of proto/espalier/v1/tree.proto as JSON, // comments accepted; - is "
      "standard input");
  source->add_option("--prompt", options->prompt, "Text of the root");
  CLI::Option* ids =
      source->add_option("--prompt-ids", options->prompt_ids, "Token ids of the root, as 1,2,3");
  source->require_option(1);
  auto* shape = command->add_option_group("shape", "How to grow a prompt (a tree file says this itself)");
  shape->add_option("--branches", options->branches, "Branches to grow from the prompt [1]");
  shape->add_option("--max-new-tokens", options->max_new_tokens, "Tokens after which a branch ends [64]");
  shape->add_option("--temperature", options->temperature, "0: the most likely token always [1]");
  shape->add_option("--top-k", options->top_k, "Draw from the K most likely tokens; 0: all [0]");
  shape->add_option("--top-p", options->top_p, "Draw from the most likely tokens that add up to this [1]");
  shape->add_option("--min-p", options->min_p,
                    "Draw from tokens at least this likely relative to the best [0]");
  shape->add_option("--stop", options->stop, "A branch ends before this text; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  shape->add_flag("--ignore-eos", options->ignore_eos, "Go on after the model's end-of-sequence token");
  shape->add_option("--top-logprobs", options->top_logprobs,
                    "Report the N most likely tokens with --json [0]");
  command->add_option("--seed", options->seed, "Seed of all draws; same seed, same tree");
  command->add_flag("--cache-bypass", options->cache_bypass, "Neither use nor fill the prefix cache");
  command->add_option("--color", options->colour, "Colours: auto, always, never [auto]")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  command->add_option("--record", options->record,
                      "Write the events to this file too, as --json prints them");
  command->add_option("--prompt-lines", options->prompt_lines, "Lines of the prompt to show [4]");
  command->callback([options, tree, ids, shape, &common, &run] {
    if (tree->count() > 0 && options->tree_file.empty()) {
      throw CLI::ValidationError("--tree", "must name a file, or - for standard input");
    }
    for (const CLI::Option* flag : shape->get_options()) {
      if (tree->count() == 0 || flag->count() == 0) continue;
      throw CLI::ValidationError(flag->get_name(), "a tree file says this itself");
    }
    if (ids->count() > 0) ParseIds("--prompt-ids", options->prompt_ids);
    run = [options, &common] { return Generate(*options, common); };
  });
}

}  // namespace espalier::cli
