#include <unistd.h>

#include <cstdio>

#include "espalier/v1/model.grpc.pb.h"
#include "model/tokenizer/tokenizer.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/flags.h"
#include "server/cli/json_input.h"
#include "server/cli/json_lines.h"
#include "server/console/manual.h"
#include "server/console/terminal.h"
#include "server/console/text.h"

namespace espalier::cli {
namespace {

struct TokenizerOptions {
  std::string tokenizer;  // local file or folder; empty: the server's
  std::string text;
  std::string ids;
  bool jsonl = false;
  bool add_bos = false;
  bool parse_special = false;
  bool continues = false;
};

// One answer of either command.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<std::string> pieces;
  std::string text;
};

// The tokenizer that was asked for, here or behind the server.
class Source {
 public:
  Source(const TokenizerOptions& options, const CommonOptions& common) : options_(options), common_(common) {}

  // Returns an exit code; reports errors.
  int Open() {
    if (options_.tokenizer.empty()) {
      stub_ = v1::ModelService::NewStub(Connect(common_.server));
      return kExitDone;
    }
    auto loaded = LoadTokenizer(options_.tokenizer);
    if (!loaded) return Complain(loaded.error());
    local_ = std::move(*loaded);
    return kExitDone;
  }

  int Tokenize(const std::string& text, Tokens& tokens) {
    tokens = {.ids = {}, .pieces = {}, .text = text};
    if (local_) {
      const auto ids = local_->Encode(text, {.at_start = !options_.continues,
                                             .add_bos = options_.add_bos && local_->bos_id() >= 0,
                                             .parse_special = options_.parse_special});
      if (!ids) return Complain(ids.error());
      tokens.ids = *ids;
      for (const int32_t id : *ids) tokens.pieces.push_back(local_->Piece(id));
      return kExitDone;
    }
    v1::TokenizeRequest request;
    request.set_text(text);
    request.set_add_bos(options_.add_bos);
    request.set_parse_special(options_.parse_special);
    request.set_continues(options_.continues);
    grpc::ClientContext context;
    const CancelOnSignal cancel(context);
    v1::TokenizeResponse response;
    const grpc::Status status = stub_->Tokenize(&context, request, &response);
    tokens.ids = {response.token_ids().begin(), response.token_ids().end()};
    tokens.pieces = {response.pieces().begin(), response.pieces().end()};
    return Report(status, common_.server, common_.json);
  }

  int Detokenize(const std::vector<int32_t>& ids, Tokens& tokens) {
    tokens = {.ids = ids, .pieces = {}, .text = {}};
    if (local_) {
      for (const int32_t id : ids) {
        if (id < 0 || id >= local_->vocab_size()) {
          return Complain(InvalidArgument("token_ids", std::to_string(id) + " is not in [0, " +
                                                           std::to_string(local_->vocab_size()) + ")"));
        }
        tokens.pieces.push_back(local_->Piece(id));
      }
      tokens.text = local_->Decode(ids);
      return kExitDone;
    }
    v1::DetokenizeRequest request;
    request.mutable_token_ids()->Add(ids.begin(), ids.end());
    grpc::ClientContext context;
    const CancelOnSignal cancel(context);
    v1::DetokenizeResponse response;
    const grpc::Status status = stub_->Detokenize(&context, request, &response);
    tokens.pieces = {response.pieces().begin(), response.pieces().end()};
    tokens.text = response.text();
    return Report(status, common_.server, common_.json);
  }

 private:
  static int Complain(const Error& error) {
    std::fprintf(stderr, "error: %s\n", Printable(error.ToString()).c_str());
    return kExitUsage;
  }

  const TokenizerOptions& options_;
  const CommonOptions& common_;
  std::unique_ptr<Tokenizer> local_;
  std::unique_ptr<v1::ModelService::Stub> stub_;
};

void Print(const Tokens& tokens, bool as_json) {
  if (as_json) {
    PrintLine({{"token_ids", tokens.ids}, {"pieces", tokens.pieces}, {"text", tokens.text}});
    return;
  }
  for (size_t i = 0; i < tokens.pieces.size(); ++i) {
    std::printf("%7d  %s\n", tokens.ids[i], TextFor(STDOUT_FILENO, tokens.pieces[i]).c_str());
  }
  if (tokens.pieces.empty()) std::printf("%s\n", TextFor(STDOUT_FILENO, tokens.text).c_str());
}

// One job from the flags, or one for each line of standard input: a JSON string, or an array of ids.
template <typename Value, typename Work>
int ForEach(const TokenizerOptions& options, const Value& single, const Work& work) {
  if (!options.jsonl) return work(single);
  return ForEachJsonLine([&](const Json& json) {
    Value value;
    LineOutcome outcome{.wrong = ReadValue(json, value)};
    if (outcome.wrong.empty()) outcome.exit_code = work(value);
    return outcome;
  });
}

CLI::App* AddCommand(CLI::App& app, const char* name, const char* help, TokenizerOptions& options) {
  CLI::App* command = app.add_subcommand(name, help);
  command
      ->add_option("--tokenizer", options.tokenizer,
                   "Use this model folder or tokenizer file here, without a server")
      ->type_name("PATH");
  command->add_flag("--jsonl", options.jsonl, "Read one JSON value a line from standard input");
  return command;
}

}  // namespace

void AddTokenize(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<TokenizerOptions>();
  CLI::App* command = AddCommand(app, "tokenize", "Text to token ids", *options);
  CLI::Option* text =
      command->add_option("--text", options->text, "The text; or --jsonl: strings on standard input")
          ->type_name("TEXT");
  CLI::Option* bos =
      command->add_flag("--bos", options->add_bos, "Put the beginning-of-sequence token first");
  command
      ->add_flag("--continues", options->continues,
                 "The text goes on after other text: no mark of a text's beginning is added")
      ->excludes(bos);
  command->add_flag("--parse-special", options->parse_special,
                    "Recognise special tokens, such as </s>, in the text");
  Describe(*command, {.usage = "(--text TEXT | --jsonl) [options]",
                      .more = {},
                      .examples = {{"", "espalier tokenize --text 'numbers 5 8 12 12 target 24'"},
                                   {"Without a server:",
                                    "espalier tokenize --tokenizer model/demo --text 'numbers 5 8 12 12'"}},
                      .exit_codes = {},
                      .see = {}});
  command->callback([options, text, &common, &run] {
    if (options->jsonl == (text->count() > 0))
      throw CLI::ValidationError("tokenize", "needs --text or --jsonl");
    run = [options, &common] {
      Source source(*options, common);
      if (const int code = source.Open(); code != kExitDone) return code;
      return ForEach(*options, options->text, [&](const std::string& each) {
        Tokens tokens;
        const int code = source.Tokenize(each, tokens);
        if (code == kExitDone) Print(tokens, common.json);
        return code;
      });
    };
  });
}

void AddDetokenize(CLI::App& app, const CommonOptions& common, Run& run) {
  auto options = std::make_shared<TokenizerOptions>();
  CLI::App* command = AddCommand(app, "detokenize", "Token ids to text", *options);
  CLI::Option* ids =
      command->add_option("--ids", options->ids, "Token ids, as 1,2,3; or --jsonl: arrays on standard input")
          ->type_name("IDS");
  Describe(*command, {.usage = "(--ids IDS | --jsonl) [options]",
                      .more = {},
                      .examples = {{"", "espalier detokenize --ids 503,264,267,399"}},
                      .exit_codes = {},
                      .see = {}});
  command->callback([options, ids, &common, &run] {
    if (options->jsonl == (ids->count() > 0))
      throw CLI::ValidationError("detokenize", "needs --ids or --jsonl");
    const std::vector<int32_t> single =
        options->jsonl ? std::vector<int32_t>{} : ParseIds("--ids", options->ids);
    run = [options, single, &common] {
      Source source(*options, common);
      if (const int code = source.Open(); code != kExitDone) return code;
      return ForEach(*options, single, [&](const std::vector<int32_t>& each) {
        Tokens tokens;
        const int code = source.Detokenize(each, tokens);
        if (code != kExitDone) return code;
        if (common.json) {
          Print(tokens, true);
        } else {
          std::printf("%s\n", TextFor(STDOUT_FILENO, tokens.text).c_str());
        }
        return code;
      });
    };
  });
}

}  // namespace espalier::cli
