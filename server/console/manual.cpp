#include "server/console/manual.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "server/console/terminal.h"
#include "server/console/text.h"

namespace espalier::cli {
namespace {

constexpr const char* kExitCodes =
    "0 done; 1 failed; 2 wrong usage or file; 3 the server cannot be reached; 130 interrupted by Ctrl-C.";

int Width() {
  constexpr int kUsual = 80;
  return IsTerminal(STDOUT_FILENO) ? std::clamp(SizeOf(STDOUT_FILENO).columns, 40, 100) : kUsual;
}

std::string Indented(const std::string& text, int indent, int width) {
  std::string out;
  for (const std::string& line : Wrap(text, width - indent)) {
    out += std::string(static_cast<size_t>(indent), ' ') + line + "\n";
  }
  return out;
}

// A term with its description next to it, or below where the term is long.
std::string Entry(const std::string& term, const std::string& description, int column, int width) {
  const auto indent = static_cast<size_t>(column);
  std::string out = "  " + term;
  std::string body = Indented(description, column, width);
  if (out.size() + 2 > indent) return out + "\n" + body;
  return out + std::string(indent - out.size(), ' ') + body.substr(indent);
}

class Manual final : public CLI::FormatterBase {
 public:
  explicit Manual(ManualText text) : text_(std::move(text)) {}

  std::string make_help(const CLI::App* app, std::string /*name*/,
                        CLI::AppFormatMode /*mode*/) const override {
    const int width = Width();
    const std::string name = FullName(*app);
    std::string out = Indented(name + " - " + app->get_description(), 0, width);
    out += "\nUsage\n" + Indented(name + " " + (text_.usage.empty() ? "[options]" : text_.usage), 2, width);
    if (!text_.more.empty()) out += "\n" + Indented(text_.more, 0, width);
    out += Commands(*app, width) + Options(*app, width);
    if (!text_.examples.empty()) out += "\nExamples\n";
    for (const Example& example : text_.examples) {
      if (!example.about.empty()) out += Indented(example.about, 2, width);
      out += "    ";  // as it is typed
      for (const char c : example.command) out += c == '\n' ? std::string("\n      ") : std::string(1, c);
      out += "\n";
    }
    out += "\nExit codes\n" + Indented(text_.exit_codes.empty() ? kExitCodes : text_.exit_codes, 2, width);
    if (!text_.see.empty()) out += "\nSee also\n" + Indented(text_.see, 2, width);
    return out;
  }

 private:
  static std::string FullName(const CLI::App& app) {
    const CLI::App* parent = app.get_parent();
    return parent == nullptr ? app.get_name() : FullName(*parent) + " " + app.get_name();
  }

  static std::string Commands(const CLI::App& app, int width) {
    std::string out;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      out += Entry(command->get_name(), command->get_description(), 16, width);
    }
    return out.empty() ? "" : "\nCommands\n" + out;
  }

  static std::string Options(const CLI::App& app, int width) {
    std::vector<std::pair<std::string, std::string>> groups;
    const auto add = [&](const std::string& group, const CLI::Option& option) {
      auto at = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == group; });
      if (at == groups.end()) at = groups.insert(groups.end(), {group, ""});
      at->second += Entry(NamesOf(option), option.get_description(), 26, width);
    };
    const CLI::App* parent = app.get_parent();
    for (const CLI::Option* option : app.get_options()) {
      if (option != app.get_help_ptr()) add(option->get_group(), *option);
    }
    const CLI::App& root = parent == nullptr ? app : *parent;
    for (const CLI::Option* option : root.get_options()) {
      if (parent != nullptr && option != root.get_help_ptr()) add("Common options", *option);
    }
    add(parent == nullptr ? "Options" : "Common options", *app.get_help_ptr());
    std::string out;
    for (const auto& [group, entries] : groups) out += "\n" + group + "\n" + entries;
    return out;
  }

  ManualText text_;
};

}  // namespace

void Describe(CLI::App& command, ManualText text) {
  command.formatter(std::make_shared<Manual>(std::move(text)));
}

std::string ValueNameOf(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return "";
  std::string name = option.get_type_name();
  name.erase(std::min(name.size(), name.find(":{")));  // the choices stand behind it
  return name;
}

std::vector<std::string> ChoicesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();  // NAME:{one,other}
  std::vector<std::string> choices;
  const size_t open = type.find('{');
  const size_t close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos) return choices;
  for (size_t at = open + 1; at <= close;) {
    const size_t end = std::min(type.find(',', at), close);
    choices.push_back(type.substr(at, end - at));
    at = end + 1;
  }
  return choices;
}

std::string FaultOf(const CLI::ParseError& error) {
  const std::string fault = error.what();
  const size_t often = fault.find("At Most 1 required but received");
  return often == std::string::npos ? fault : fault.substr(0, often) + "given more than once";
}

std::string FlagOf(const std::string& name) {
  std::string flag = "--" + name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string NamesOf(const CLI::Option& option) {
  std::string names;
  for (const std::string& name : option.get_snames()) names += (names.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) names += (names.empty() ? "--" : ", --") + name;
  std::string value = ValueNameOf(option);
  if (names.empty()) return value;  // by its place
  if (value.empty()) return names;
  return names + (option.get_items_expected_min() == 0 ? " [" + value + "]" : " " + value);
}

}  // namespace espalier::cli
