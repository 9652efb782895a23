#include "server/console/completion.h"

#include <algorithm>

#include "server/console/manual.h"
#include "server/console/text.h"

namespace espalier::cli {
namespace {

std::vector<const CLI::App*> CommandsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

// "--tree", "-h".
std::vector<std::string> FlagsOf(const CLI::Option& option) {
  std::vector<std::string> flags;
  for (const std::string& name : option.get_snames()) flags.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) flags.push_back("--" + name);
  return flags;
}

bool IsFile(const CLI::Option& option) {
  const std::string value = ValueNameOf(option);
  return value == "FILE" || value == "DIR" || value == "PATH";
}

std::string Joined(const std::vector<std::string>& words, const char* between) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

// What is said of an option in a list of candidates: its purpose, up to details and defaults.
std::string Summary(const std::string& description) {
  const size_t end =
      std::min({description.find_first_of(";["), description.find(": "), description.find(", e.g.")});
  std::string summary = description.substr(0, end);
  while (!summary.empty() && (summary.back() == ' ' || summary.back() == ',')) summary.pop_back();
  return Fit(summary, 70);
}

std::string Escaped(const std::string& text, const std::string& special, const std::string& with) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string::npos) out += with;
    out += c;
  }
  return out;
}

// In single quotes of a POSIX shell.
std::string Quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Words that may stand behind a command, and cases for the values of its options.
struct BashWords {
  std::vector<std::string> words;
  std::string cases;
};

BashWords BashWordsOf(const CLI::App& app, const std::string& command) {
  BashWords out;
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string> choices = ChoicesOf(*option);
    if (option->get_positional()) {
      out.words.insert(out.words.end(), choices.begin(), choices.end());
      continue;
    }
    std::vector<std::string> patterns;
    for (const std::string& flag : FlagsOf(*option)) {
      out.words.push_back(flag);
      patterns.push_back(command + ":" + flag);
    }
    if (option->get_items_expected_min() == 0) continue;
    out.cases += "    " + Joined(patterns, "|") + ")\n";
    if (IsFile(*option)) {
      out.cases += "      compopt -o filenames\n      mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n";
    } else if (!choices.empty()) {
      out.cases +=
          "      mapfile -t COMPREPLY < <(compgen -W '" + Joined(choices, " ") + "' -- \"$current\")\n";
    }
    out.cases += "      return ;;\n";
  }
  return out;
}

std::string ZshOption(const CLI::Option& option) {
  std::string value;
  if (option.get_items_expected_max() > 0) {
    const std::vector<std::string> choices = ChoicesOf(option);
    value = option.get_items_expected_min() == 0 ? "::" : ":";
    value += Escaped(ValueNameOf(option), ":", "\\") + ":";
    if (IsFile(option)) value += "_files";
    if (!choices.empty()) value += "(" + Joined(choices, " ") + ")";
  }
  std::string out;
  if (option.get_positional()) return " " + Quoted("1" + value);
  for (const std::string& flag : FlagsOf(option)) {
    const std::string summary = Escaped(Summary(option.get_description()), "[]\\", "\\");
    out += " \\\n        " + Quoted("*" + flag + "[" + summary + "]" + value);
  }
  return out;
}

std::string FishOption(const std::string& program, const std::string& condition, const CLI::Option& option) {
  std::string line = "complete -c " + program + condition;
  const std::vector<std::string> choices = ChoicesOf(option);
  if (option.get_positional()) return line + " -a '" + Joined(choices, " ") + "'\n";
  for (const std::string& name : option.get_snames()) line += " -s " + name;
  for (const std::string& name : option.get_lnames()) line += " -l " + name;
  if (option.get_items_expected_min() > 0) {
    line += IsFile(option) ? " -r -F" : " -x";
    if (!choices.empty()) line += " -a '" + Joined(choices, " ") + "'";
  }
  // fish knows \\ and \' in single quotes.
  return line + " -d '" + Escaped(Summary(option.get_description()), "\\'", "\\") + "'\n";
}

// Lines of the bash function that find the command among the words, if there are commands.
std::string BashFindCommand(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  return "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
         "    case ${COMP_WORDS[i]} in\n      " +
         Joined(names, "|") + ")\n        command=${COMP_WORDS[i]}\n        break ;;\n    esac\n  done\n";
}

std::string BashCompletion(const CLI::App& app, const std::string& printed_by) {
  const std::string& program = app.get_name();
  std::vector<std::string> names;
  for (const CLI::App* command : CommandsOf(app)) names.push_back(command->get_name());
  const BashWords common = BashWordsOf(app, "*");
  std::string cases = common.cases;
  std::string words;
  for (const CLI::App* command : CommandsOf(app)) {
    const BashWords own = BashWordsOf(*command, command->get_name());
    cases += own.cases;
    words += "    " + command->get_name() + ") words='" + Joined(own.words, " ") + "' ;;\n";
  }
  return "# Completes the words of " + program + " in bash. For good: " + printed_by +
         " bash \\\n#   > ~/.local/share/bash-completion/completions/" + program + "\n_" + program +
         "() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' "
         "words='' i\n"
         "  COMPREPLY=()\n" +
         BashFindCommand(names) + "  case $command:$previous in\n" + cases + "  esac\n  case $command in\n" +
         words + "    *) words='" + Joined(names, " ") +
         "' ;;\n  esac\n  mapfile -t COMPREPLY < <(compgen -W \"$words " + Joined(common.words, " ") +
         "\" -- \"$current\")\n}\ncomplete -F _" + program + " " + program + "\n";
}

std::string ZshCompletion(const CLI::App& app, const std::string& printed_by) {
  const std::string& program = app.get_name();
  std::string common;
  for (const CLI::Option* option : app.get_options()) common += ZshOption(*option);
  std::string commands;
  std::string arguments;
  for (const CLI::App* command : CommandsOf(app)) {
    commands += "        " + Quoted(command->get_name() + ":" + Summary(command->get_description())) + "\n";
    std::string own;
    for (const CLI::Option* option : command->get_options()) {
      if (option != command->get_help_ptr()) own += ZshOption(*option);
    }
    arguments += "        " + command->get_name() + ")\n      _arguments \"${common[@]}\"" + own + " ;;\n";
  }
  const std::string begin =
      "#compdef " + program + "\n# Completes the words of " + program + " in zsh. For good: " + printed_by +
      " zsh > DIR/_" + program + ",\n# with a DIR of $fpath; or source it.\n_" + program +
      "() {\n  local state line\n  local -a commands common\n  common=(" + common + ")\n";
  const std::string end = "}\nif [[ $funcstack[1] == _" + program + " ]]; then\n  _" + program +
                          " \"$@\"\nelse\n  compdef _" + program + " " + program + "\nfi\n";
  if (commands.empty()) return begin + "  _arguments \"${common[@]}\"\n" + end;
  return begin + "  commands=(\n" + commands +
         "  )\n  _arguments -C \"${common[@]}\" '1:command:->command' '*::argument:->argument'\n"
         "  case $state in\n    command) _describe command commands ;;\n    argument)\n      case $words[1] "
         "in\n" +
         arguments + "      esac ;;\n  esac\n" + end;
}

std::string FishCompletion(const CLI::App& app, const std::string& printed_by) {
  const std::string& program = app.get_name();
  std::string out = "# Completes the words of " + program + " in fish. For good: " + printed_by +
                    " fish \\\n#   > ~/.config/fish/completions/" + program + ".fish\ncomplete -c " +
                    program + " -f\n";
  for (const CLI::Option* option : app.get_options()) out += FishOption(program, "", *option);
  for (const CLI::App* command : CommandsOf(app)) {
    out += "complete -c " + program + " -n __fish_use_subcommand -a " + command->get_name() + " -d '" +
           Escaped(Summary(command->get_description()), "\\'", "\\") + "'\n";
    const std::string condition = " -n '__fish_seen_subcommand_from " + command->get_name() + "'";
    for (const CLI::Option* option : command->get_options()) {
      if (option != command->get_help_ptr()) out += FishOption(program, condition, *option);
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> CompletedShells() { return {"bash", "zsh", "fish"}; }

std::string Completion(const CLI::App& app, const std::string& shell, const std::string& printed_by) {
  return shell == "bash"  ? BashCompletion(app, printed_by)
         : shell == "zsh" ? ZshCompletion(app, printed_by)
                          : FishCompletion(app, printed_by);
}

}  // namespace espalier::cli
