#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/command.h"

namespace espalier::bench {
namespace {

constexpr int kExitDone = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitUnreachable = 3;

// A field of an error as the flag that sets it; other fields stay what they are.
std::string FlagOf(const CLI::App& command, const std::string& field) {
  std::string flag = "--" + field;
  for (char& c : flag) c = c == '_' ? '-' : c;
  return command.get_option_no_throw(flag) != nullptr ? flag : field;
}

int Fail(const Command& command, const Error& error) {
  const std::string field = error.field.empty() ? "" : FlagOf(command.app(), error.field) + ": ";
  std::fprintf(stderr, "error: %s%s\n", field.c_str(), error.message.c_str());
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnimplemented:
    case ErrorCode::kResourceExhausted:
      return kExitUsage;
    case ErrorCode::kUnavailable:
      return kExitUnreachable;
    default:
      return kExitFailed;
  }
}

int Print(const Report& report, const Command& command) {
  const std::string text = command.json() ? ToJson(report) : command.csv() ? ToCsv(report) : ToTable(report);
  const bool printed = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  if (!printed) std::fprintf(stderr, "error: standard output: cannot be written\n");
  for (const std::string& failure : report.failures) std::fprintf(stderr, "error: %s\n", failure.c_str());
  return printed && report.failures.empty() ? kExitDone : kExitFailed;
}

int Execute(Command* command, const std::string& command_line) {
  FlagReader reader;
  command->Read(&reader);
  for (const std::string& problem : reader.problems()) std::fprintf(stderr, "error: %s\n", problem.c_str());
  if (!reader.problems().empty()) return kExitUsage;
  // Opened first: a run of minutes should not end without a place for its results.
  std::ofstream file;
  if (!command->json_file().empty()) file.open(command->json_file());
  if (file.fail())
    return Fail(*command, InvalidArgument("json_file", "'" + command->json_file() + "' cannot be written"));
  auto report = command->Run();
  if (!report) return Fail(*command, report.error());
  report->command = command_line;
  if (file.is_open() && !(file << ToJson(*report) << std::flush))
    return Fail(*command, InternalError("'" + command->json_file() + "' cannot be written"));
  return Print(*report, *command);
}

int Main(int argc, char** argv) {
  std::string command_line = "espalier-bench";
  for (int i = 1; i < argc; ++i) command_line += std::string(" ") + argv[i];

  CLI::App app("Measures what this machine makes of trees of text.", "espalier-bench");
  app.require_subcommand(1);
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeAttentionCommand(&app));
  commands.push_back(MakeDecodeCommand(&app));
  commands.push_back(MakeLongPromptCommand(&app));
  commands.push_back(MakePlanCommand(&app));
  commands.push_back(MakeReplayCommand(&app));
  commands.push_back(MakeScoreCommand(&app));
#ifndef ESPALIER_BENCH_DEVICE_ONLY
  commands.push_back(MakeServeCommand(&app));
  commands.push_back(MakeTokenizeCommand(&app));
#endif
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
  for (const auto& command : commands) {
    if (command->app().parsed()) return Execute(command.get(), command_line);
  }
  return kExitUsage;
}

}  // namespace
}  // namespace espalier::bench

int main(int argc, char** argv) {
  try {
    return espalier::bench::Main(argc, argv);
  } catch (const std::exception& error) {  // of a library, or out of memory
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
