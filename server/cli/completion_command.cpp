#include <cstdio>

#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/console/completion.h"
#include "server/console/manual.h"

namespace espalier::cli {

void AddCompletion(CLI::App& app, Run& run) {
  CLI::App* command =
      app.add_subcommand("completion", "Print a script that completes the words of this program in a shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->check(CLI::IsMember(CompletedShells()))
      ->type_name("SHELL")
      ->required();
  Describe(
      *command,
      {.usage = "bash|zsh|fish",
       .more = "The script is made from the options that this program understands.",
       .examples = {{"In this shell only:", "source <(espalier completion bash)"},
                    {"For good:",
                     "espalier completion bash \\\n> ~/.local/share/bash-completion/completions/espalier"},
                    {"", "espalier completion zsh > ~/.zfunc/_espalier    # ~/.zfunc in $fpath"},
                    {"", "espalier completion fish > ~/.config/fish/completions/espalier.fish"}},
       .exit_codes = "0 done; 2 wrong usage.",
       .see = "espalier-server --completion SHELL does the same for the server."});
  command->callback([shell, &app, &run] {
    run = [shell, &app] {
      std::fputs(Completion(app, *shell, "espalier completion").c_str(), stdout);
      return kExitDone;
    };
  });
}

}  // namespace espalier::cli
