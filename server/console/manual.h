#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace espalier::cli {

struct Example {
  std::string about;
  std::string command;
};

// What --help says of a command in addition to its purpose and its options.
struct ManualText {
  std::string usage{};  // behind the command's name; empty: "[options]"
  std::string more{};
  std::vector<Example> examples{};
  std::string exit_codes{};  // empty: those that all commands have
  std::string see{};
};

// Has `command` answer --help like a manual page: purpose, usage, options by group, examples, exit codes;
// within the terminal's width, or 80 columns.
void Describe(CLI::App& command, ManualText text);

// What is wrong with a command line, in words that name the flag.
std::string FaultOf(const CLI::ParseError& error);

// The flag of a field or setting: "--top-k" of "top_k".
std::string FlagOf(const std::string& name);

// The names of an option, "--watch, --no-watch", and of its value; e.g. "--seed N".
std::string NamesOf(const CLI::Option& option);

// What an option may be set to, where that is a list; e.g. {"auto", "always", "never"}.
std::vector<std::string> ChoicesOf(const CLI::Option& option);

// The name of an option's value, "FILE"; empty for a flag.
std::string ValueNameOf(const CLI::Option& option);

}  // namespace espalier::cli
