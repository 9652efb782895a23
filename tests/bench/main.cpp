#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/bench/decode.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/flags.h"
#include "tests/bench/report.h"

namespace espalier::bench {
namespace {

constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// A field of an error as the flag that sets it; other fields stay what they are.
std::string FlagOf(const CLI::App& command, const std::string& field) {
  std::string flag = "--" + field;
  for (char& c : flag) c = c == '_' ? '-' : c;
  return command.get_option_no_throw(flag) != nullptr ? flag : field;
}

int Fail(const CLI::App& command, const Error& error) {
  const std::string field = error.field.empty() ? "" : FlagOf(command, error.field) + ": ";
  std::fprintf(stderr, "error: %s%s\n", field.c_str(), error.message.c_str());
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnimplemented:
    case ErrorCode::kResourceExhausted:
      return kExitUsage;
    default:
      return kExitFailed;
  }
}

int Print(const Report& report, bool json) {
  const std::string text = json ? ToJson(report) : ToTable(report);
  if (std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return kExitDone;
  std::fprintf(stderr, "error: standard output: cannot be written\n");
  return kExitFailed;
}

int RunDecodeCommand(const DecodeFlags& flags, const std::string& command_line) {
  FlagReader reader;
  const DecodeOptions options = flags.Read(&reader);
  for (const std::string& problem : reader.problems()) std::fprintf(stderr, "error: %s\n", problem.c_str());
  if (!reader.problems().empty()) return kExitUsage;
  // Opened first: a run of minutes should not end with nowhere to go.
  std::ofstream file;
  if (!flags.json_file().empty()) file.open(flags.json_file());
  if (file.fail())
    return Fail(flags.command(),
                InvalidArgument("json_file", "'" + flags.json_file() + "' cannot be written"));
  auto report = RunDecode(options);
  if (!report) return Fail(flags.command(), report.error());
  report->command = command_line;
  if (file.is_open() && !(file << ToJson(*report) << std::flush))
    return Fail(flags.command(), InternalError("'" + flags.json_file() + "' cannot be written"));
  return Print(*report, flags.json());
}

int Main(int argc, char** argv) {
  std::string command_line = "espalier-bench";
  for (int i = 1; i < argc; ++i) command_line += std::string(" ") + argv[i];

  CLI::App app("Measures what this machine makes of trees of text.", "espalier-bench");
  app.require_subcommand(1);
  const DecodeFlags decode(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    std::fputs((chosen.empty() ? app : *chosen.front()).help().c_str(), stdout);
    return kExitDone;
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "error: command line: %s\n", error.what());
    return kExitUsage;
  }
  return RunDecodeCommand(decode, command_line);
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) { return espalier::bench::Main(argc, argv); }
