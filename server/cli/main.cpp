#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>

#include "server/address.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/console/completion.h"
#include "server/console/manual.h"
#include "server/console/standard_files.h"
#include "server/console/text.h"
#include "server/located_json.h"
#include "server/version.h"

namespace espalier::cli {

namespace {

// The port matters: without one gRPC would try its own, and it takes numbers that are none modulo 65536.
bool IsServerAddress(const std::string& text) {
  const std::optional<Address> address = ParseAddress(text);
  return address &&
         (address->is_unix() || (address->port > 0 && address->host.find("://") == std::string::npos));
}

// "localhost" stands for "localhost:50051", "[::1]" for "[::1]:50051".
std::string WithPort(const std::string& text, int port) {
  const bool has_port = text.find(':') != std::string::npos && !text.ends_with(']');
  const bool is_host = !text.empty() && text.find('/') == std::string::npos && !has_port;
  return is_host ? text + ":" + std::to_string(port) : text;
}

int Complain(const std::string& problem, const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  const std::string command = chosen.empty() ? "" : " " + chosen.front()->get_name();
  std::fprintf(stderr, "error: %s\n`espalier%s --help` says more.\n", PrintableLines(problem).c_str(),
               command.c_str());
  return kExitUsage;
}

// Suggestions for words of the command line that are not known.
std::string NotUnderstood(const std::string& word, const CLI::App& app) {
  const std::string flag = word.substr(0, word.find('='));
  if (flag == "--host" || flag == "--port" || flag == "-H" || flag == "-p") {
    return flag + ": not understood; the address of the server is --server HOST:PORT";
  }
  std::vector<std::string> known;
  const auto chosen = app.get_subcommands();
  const bool is_command = chosen.empty() && word.front() != '-';
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (is_command) known.push_back(command->get_name());
  }
  for (const CLI::App* of : {&app, chosen.empty() ? nullptr : static_cast<const CLI::App*>(chosen.front())}) {
    if (of == nullptr || is_command) continue;
    for (const CLI::Option* option : of->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  }
  const auto closest = ClosestWord(word, known);
  return word + ": not understood" + (closest ? "; did you mean " + *closest + "?" : "");
}

void DescribeProgram(CLI::App& app) {
  Describe(
      app,
      {.usage = "COMMAND [options]",
       .more = "`espalier COMMAND --help` says more of a command. Options may stand before or behind it.",
       .examples = {{"A server with the demo model, in another terminal:",
                     "espalier-server --model model/demo"},
                    {"Eight answers to one prompt; a blank line ends an answer:",
                     "espalier generate --prompt $'numbers 5 8 12 12 target 24\\n' --branches 8 \\\n--stop "
                     "$'\\n\\n'"},
                    {"A tree file:", "espalier generate --tree configs/trees/tree_of_thoughts.json"},
                    {"What the server does:", "espalier stats --watch"}},
       .exit_codes = {},
       .see = "Environment: ESPALIER_SERVER stands for --server, ESPALIER_ADMIN for --admin; NO_COLOR, "
              "CLICOLOR_FORCE and COLUMNS "
              "are heeded as usual. The interface: proto/espalier/v1. Tree files: configs/trees."});
}

// What could not be written, to a full disk for instance, must not look like success.
int AfterPrinting(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "error: standard output: cannot be written\n");
  return code == kExitDone ? kExitFailed : code;
}

int Main(int argc, char** argv) {
  HoldStandardFiles(argv, ClosedFile::kRefused);
  WatchSignals();
  // Column widths of characters: any UTF-8 locale knows them.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  google::protobuf::SetLogHandler(nullptr);

  CLI::App app("Grows, scores and inspects trees of text on an Espalier server", "espalier");
  DescribeProgram(app);
  app.set_version_flag("--version", std::string("espalier ") + kVersion, "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  CommonOptions common;
  if (const char* server = std::getenv("ESPALIER_SERVER"); server != nullptr && *server != 0) {
    common.server = server;
  }
  app.add_option("--server", common.server,
                 "Address of the server, or unix:PATH; the port may be left out where it is 50051 "
                 "[$ESPALIER_SERVER, else 127.0.0.1:50051]")
      ->type_name("HOST:PORT");
  if (const char* admin = std::getenv("ESPALIER_ADMIN"); admin != nullptr) common.admin = admin;
  app.add_option(
         "--admin", common.admin,
         "Address of its AdminService, for stats, flush and snapshot [$ESPALIER_ADMIN, else what the server "
         "says]")
      ->type_name("HOST:PORT");
  app.add_flag("--json", common.json, "Print JSON only, one object a line");
  app.require_subcommand(1);

  app.fallthrough();  // --server, --admin and --json may stand behind the command too
  Run run;
  AddGenerate(app, common, run);
  AddScore(app, common, run);
  AddTokenize(app, common, run);
  AddDetokenize(app, common, run);
  AddModel(app, common, run);
  AddStats(app, common, run);
  AddFlush(app, common, run);
  AddSnapshot(app, common, run);
  AddHealth(app, common, run);
  AddCompletion(app, run);
  // `help` and `help COMMAND` are --help and COMMAND --help.
  std::vector<const char*> words(argv, argv + argc);
  if (argc > 1 && std::string(words[1]) == "help") {
    words.erase(words.begin() + 1);
    words.push_back("--help");
  }
  try {
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::Success& answered) {  // --help, --version
    const std::vector<std::string> unknown = app.remaining(true);
    if (app.get_subcommands().empty() && !unknown.empty()) {
      return Complain(NotUnderstood(unknown.front(), app), app);
    }
    return AfterPrinting(app.exit(answered));
  } catch (const CLI::ParseError& error) {
    if (argc == 1) return Complain("a command is needed, such as generate", app);
    const std::vector<std::string> unknown = app.remaining(true);
    return Complain(unknown.empty() ? FaultOf(error) : NotUnderstood(unknown.front(), app), app);
  }
  common.server = WithPort(common.server, 50051);
  common.admin = WithPort(common.admin, 50052);
  struct Given {
    const char* flag;
    const char* variable;
    const std::string& address;
  };
  for (const Given& given :
       {Given{"--server", "ESPALIER_SERVER", common.server},
        Given{"--admin", "ESPALIER_ADMIN", common.admin.empty() ? common.server : common.admin}}) {
    if (IsServerAddress(given.address)) continue;
    return Complain(std::string(app.count(given.flag) > 0 ? given.flag : given.variable) +
                        ": must be HOST:PORT with a port in [1, 65535], or unix:PATH" +
                        (given.address.find("://") == std::string::npos ? "" : ", without http://") +
                        ", got '" + given.address + "'",
                    app);
  }
  return AfterPrinting(run());
}

}  // namespace
}  // namespace espalier::cli

int main(int argc, char** argv) {
  try {
    return espalier::cli::Main(argc, argv);
  } catch (const std::exception& error) {  // of a library, or out of memory
    std::fprintf(stderr, "error: %s\n", error.what());
    return espalier::cli::kExitFailed;
  }
}
