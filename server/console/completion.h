#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace espalier::cli {

// "bash", "zsh", "fish".
std::vector<std::string> CompletedShells();

// A script that completes the words of a program in one of these shells, made from its options: whatever it
// understands is there. `app` may have subcommands; its own options may stand behind each of them.
// `printed_by` is the command without its last word, the shell: the script says how to keep it.
std::string Completion(const CLI::App& app, const std::string& shell, const std::string& printed_by);

}  // namespace espalier::cli
