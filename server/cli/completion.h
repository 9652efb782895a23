#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace espalier::cli {

// Scripts that complete the words of a program in a shell, made from its options: whatever it understands is
// there. `app` has subcommands, and options that may stand behind each of them.
std::string BashCompletion(const CLI::App& app);
std::string ZshCompletion(const CLI::App& app);
std::string FishCompletion(const CLI::App& app);

}  // namespace espalier::cli
