#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <charconv>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/version.h"

namespace espalier::cli {

std::vector<int32_t> ParseIds(const std::string& flag, const std::string& text) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (stop != end && *stop != ',')) {
      throw CLI::ValidationError(flag, "must be token ids such as 1,2,3, got '" + text + "'");
    }
    ids.push_back(id);
    if (stop == end) return ids;
    at = stop + 1;
  }
}

namespace {

// The port matters: without one gRPC would try its own, and it takes numbers that are none modulo 65536.
bool IsHostAndPort(const std::string& server) {
  const size_t colon = server.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  int port = 0;
  const char* const end = server.data() + server.size();
  const auto [stop, error] = std::from_chars(server.data() + colon + 1, end, port);
  return error == std::errc() && stop == end && port > 0 && port <= 65535;
}

int Complain(const std::string& problem) {
  std::fprintf(stderr, "error: %s\nRun with --help for more information.\n", problem.c_str());
  return kExitUsage;
}

int Main(int argc, char** argv) {
  WatchSignals();
  // Column widths of characters: any UTF-8 locale knows them.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
  google::protobuf::SetLogHandler(nullptr);

  CLI::App app("Grows, scores and inspects trees of text on an Espalier server.", "espalier");
  app.set_version_flag("--version", std::string("espalier ") + kVersion);
  CommonOptions common;
  if (const char* server = std::getenv("ESPALIER_SERVER"); server != nullptr) common.server = server;
  app.add_option("--server", common.server,
                 "HOST:PORT of the server; default $ESPALIER_SERVER or 127.0.0.1:50051");
  app.add_flag("--json", common.json, "Print JSON only, one object a line");
  app.require_subcommand(1);
  app.fallthrough();  // --server and --json may stand behind the command too
  Run run;
  AddGenerate(app, common, run);
  AddScore(app, common, run);
  AddTokenize(app, common, run);
  AddDetokenize(app, common, run);
  AddModel(app, common, run);
  AddStats(app, common, run);
  AddHealth(app, common, run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answered) {  // --help, --version
    return app.exit(answered);
  } catch (const CLI::ParseError& error) {
    const std::vector<std::string> unknown = app.remaining(true);
    return Complain(unknown.empty() ? error.what() : unknown.front() + ": not understood");
  }
  if (!IsHostAndPort(common.server)) {
    return Complain("--server: must be HOST:PORT with a port in [1, 65535], got '" + common.server + "'");
  }
  return run();
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
