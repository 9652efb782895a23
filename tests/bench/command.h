#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/flags.h"
#include "tests/bench/report.h"

namespace espalier::bench {

// A subcommand of espalier-bench. Its constructor adds it and its flags to the program's command line, which
// is to be parsed while it lives.
class Command {
 public:
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  const CLI::App& app() const { return *app_; }
  bool json() const { return json_; }
  bool csv() const { return csv_; }                            // never both
  const std::string& json_file() const { return json_file_; }  // empty: none

  // Turns the parsed flags into options. Every mistake is reported to `reader`; where there is one, Run is
  // not called.
  virtual void Read(FlagReader* reader) = 0;

  // Errors name the flag at fault where there is one. kUnavailable: the server does not answer.
  virtual Result<Report> Run() = 0;

 protected:
  Command(CLI::App* program, const std::string& name, const std::string& description)
      : app_(program->add_subcommand(name, description)) {}

  template <typename Value>
  void Add(const std::string& flag, Value& value, const std::string& help) {
    CLI::Option* option = app_->add_option(flag, value, help)->capture_default_str()->take_last();
    if constexpr (std::is_integral_v<Value>) option->transform(CLI::Validator(WholeNumber<Value>, ""));
  }
  // A flag that may be given again and again.
  void AddList(const std::string& flag, std::vector<std::string>& values, const std::string& help) {
    app_->add_option(flag, values, help)->allow_extra_args(false);
  }
  void AddFlag(const std::string& flag, bool& value, const std::string& help) {
    app_->add_flag(flag, value, help);
  }
  // --json, --csv and --json-file; call it last, so that they stand at the end of the help.
  void AddOutputFlags();
  bool Given(const std::string& flag) const { return app_->count(flag) > 0; }

 private:
  // The library's own conversion wraps negative numbers and reads 010 as 8; so it gets plain decimals only.
  // Returns what is wrong, or nothing.
  template <typename Integer>
  static std::string WholeNumber(std::string& text) {
    Integer value{};
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end) {
      return "must be an integer in [" + std::to_string(std::numeric_limits<Integer>::min()) + ", " +
             std::to_string(std::numeric_limits<Integer>::max()) + "], got '" + text + "'";
    }
    text = std::to_string(value);
    return "";
  }

  CLI::App* app_;
  bool json_ = false;
  bool csv_ = false;
  std::string json_file_;
};

// The commands, each in its own pair of files.
std::unique_ptr<Command> MakeAttentionCommand(CLI::App* program);
std::unique_ptr<Command> MakeDecodeCommand(CLI::App* program);
std::unique_ptr<Command> MakeLongPromptCommand(CLI::App* program);
std::unique_ptr<Command> MakePlanCommand(CLI::App* program);
std::unique_ptr<Command> MakeReplayCommand(CLI::App* program);
std::unique_ptr<Command> MakeScoreCommand(CLI::App* program);
std::unique_ptr<Command> MakeServeCommand(CLI::App* program);
std::unique_ptr<Command> MakeTokenizeCommand(CLI::App* program);

}  // namespace espalier::bench
