#include "server/config.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

namespace espalier {
namespace {

using Json = nlohmann::ordered_json;

// One setting: its key in a file is `max_batch_rows`, its flag is `--max-batch-rows`.
struct Setting {
  enum class Kind : uint8_t { kText, kInteger, kBoolean };
  std::string key;
  Kind kind;
  std::string help;
  std::function<std::string(const std::string&)> set;  // returns what is wrong with the value, or nothing
  std::function<Json()> get;
};

std::string FlagOf(const std::string& key) {
  std::string flag = "--" + key;
  for (char& c : flag) c = c == '_' ? '-' : c;
  return flag;
}

template <typename Integer>
Setting IntegerSetting(std::string key, Integer& target, int64_t low, int64_t high, std::string help) {
  auto set = [&target, low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      return "must be an integer, got '" + text + "'";
    if (value < low || value > high) {
      return "must be in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " + text;
    }
    target = static_cast<Integer>(value);
    return "";
  };
  return {std::move(key), Setting::Kind::kInteger, std::move(help), set, [&target] { return Json(target); }};
}

Setting TextSetting(std::string key, std::string& target, std::string help) {
  auto set = [&target](const std::string& text) -> std::string {
    target = text;
    return "";
  };
  return {std::move(key), Setting::Kind::kText, std::move(help), set, [&target] { return Json(target); }};
}

// A setting with few named values; `assign` gets the chosen name.
Setting ChoiceSetting(std::string key, const std::vector<std::string>& names, const std::string& help,
                      const std::function<void(const std::string&)>& assign,
                      const std::function<std::string()>& current) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  auto set = [names, list, assign](const std::string& text) -> std::string {
    for (const std::string& name : names) {
      if (name == text) {
        assign(name);
        return "";
      }
    }
    return "must be one of " + list + ", got '" + text + "'";
  };
  return {std::move(key), Setting::Kind::kText, help + ": " + list, set,
          [current] { return Json(current()); }};
}

std::vector<Setting> SettingsOf(ServerConfig& c) {
  auto text_choice = [](std::string key, std::string& target, const std::vector<std::string>& names,
                        const std::string& help) {
    return ChoiceSetting(
        std::move(key), names, help, [&target](const std::string& name) { target = name; },
        [&target] { return target; });
  };
  std::vector<Setting> settings;
  settings.push_back(TextSetting("model", c.model, "Folder of the model, in Hugging Face form (required)"));
  settings.push_back(TextSetting("listen", c.listen, "HOST:PORT to listen at; port 0 takes any free one"));
  settings.push_back(TextSetting("port_file", c.port_file, "File to write the port to, once listening"));
  settings.push_back(
      text_choice("backend", c.backend, {"auto", "cpu", "cuda", "ref"}, "What runs the model"));
  settings.push_back(text_choice("isa", c.isa, {"auto", "amx", "avx512", "avx2", "portable"},
                                 "Instruction set of the CPU backend"));
  settings.push_back(ChoiceSetting(
      "dtype", {"bfloat16", "float32"}, "Type of weights, KV and matrix operands",
      [&c](const std::string& name) { c.dtype = name == "float32" ? DType::kFloat32 : DType::kBFloat16; },
      [&c] { return std::string(Name(c.dtype)); }));
  settings.push_back(
      IntegerSetting("threads", c.threads, 0, 1024, "Threads of the CPU backend; 0: every core"));
  settings.push_back(
      IntegerSetting("kv_cache_bytes", c.kv_cache_bytes, 1, int64_t{1} << 50, "Bytes of the KV pool"));
  settings.push_back(ChoiceSetting(
      "block_tokens", {"16", "32"}, "Tokens of a KV block",
      [&c](const std::string& name) { c.block_tokens = name == "32" ? 32 : 16; },
      [&c] { return std::to_string(c.block_tokens); }));
  settings.back().kind = Setting::Kind::kInteger;
  settings.back().get = [&c] { return Json(c.block_tokens); };
  settings.push_back(
      IntegerSetting("max_branches", c.max_branches, 1, 65536, "Branches alive at one time in one request"));
  settings.push_back(IntegerSetting("max_batch_rows", c.max_batch_rows, 1, 65536, "Rows of one step"));
  settings.push_back(IntegerSetting("prefill_chunk_tokens", c.prefill_chunk_tokens, 1, 65536,
                                    "Prefill rows of a step while branches decode"));
  settings.push_back(IntegerSetting("max_queued_requests", c.max_queued_requests, 1, 1 << 20,
                                    "Requests that may wait; more are refused"));
  settings.push_back(ChoiceSetting(
      "attention_mode", {"flatten", "sequence", "masked", "node", "node_chunk"},
      "How attention is divided into work",
      [&c](const std::string& name) { c.attention_mode = *ParseAttentionMode(name); },
      [&c] { return std::string(Name(c.attention_mode)); }));
  settings.push_back(IntegerSetting("drain_timeout_ms", c.drain_timeout_ms, 0, 86400000,
                                    "Time for running trees to finish after SIGTERM"));
  settings.push_back(text_choice("log_level", c.log_level, {"debug", "info", "warning", "error"},
                                 "Least level that is logged"));
  settings.push_back({"check_invariants", Setting::Kind::kBoolean,
                      "Check all invariants at every step (slow)",
                      [&c](const std::string& text) -> std::string {
                        if (text != "true" && text != "false")
                          return "must be true or false, got '" + text + "'";
                        c.check_invariants = text == "true";
                        return "";
                      },
                      [&c] { return Json(c.check_invariants); }});
  return settings;
}

bool HasKind(const Json& value, Setting::Kind kind) {
  switch (kind) {
    case Setting::Kind::kText:
      return value.is_string();
    case Setting::Kind::kInteger:
      return value.is_number_integer();
    case Setting::Kind::kBoolean:
      return value.is_boolean();
  }
  return false;
}

const char* NameOf(Setting::Kind kind) {
  switch (kind) {
    case Setting::Kind::kText:
      return "a string";
    case Setting::Kind::kInteger:
      return "an integer";
    case Setting::Kind::kBoolean:
      return "true or false";
  }
  return "";
}

void ReadFile(const std::string& path, std::vector<Setting>& settings, std::vector<std::string>& problems) {
  std::ifstream file(path);
  if (!file) {
    problems.push_back(path + ": cannot be read");
    return;
  }
  std::ostringstream content;
  content << file.rdbuf();
  Json root;
  try {
    root = Json::parse(content.str(), nullptr, /*allow_exceptions=*/true, /*ignore_comments=*/true);
  } catch (const Json::exception& error) {
    problems.push_back(path + ": not valid JSON: " + error.what());
    return;
  }
  if (!root.is_object()) {
    problems.push_back(path + ": must hold one JSON object");
    return;
  }
  for (const auto& [key, value] : root.items()) {
    Setting* setting = nullptr;
    for (Setting& candidate : settings) {
      if (candidate.key == key) setting = &candidate;
    }
    if (setting == nullptr) {
      problems.push_back(path + ": " + key + ": unknown setting");
    } else if (!HasKind(value, setting->kind)) {
      problems.push_back(path + ": " + key + ": must be " + NameOf(setting->kind));
    } else {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      if (const std::string wrong = setting->set(text); !wrong.empty()) {
        problems.push_back(path + ": " + key + ": " + wrong);
      }
    }
  }
}

void CheckTogether(const ServerConfig& config, std::vector<std::string>& problems) {
  if (config.model.empty()) problems.emplace_back("--model: required: the folder of a model");
  const size_t colon = config.listen.rfind(':');
  int port = -1;
  if (colon != std::string::npos) {
    const char* begin = config.listen.data() + colon + 1;
    const char* end = config.listen.data() + config.listen.size();
    const auto [stop, error] = std::from_chars(begin, end, port);
    if (error != std::errc() || stop != end) port = -1;
  }
  if (colon == 0 || port < 0 || port > 65535) {
    problems.push_back("--listen: must be HOST:PORT with a port in [0, 65535], got '" + config.listen + "'");
  }
  if (config.prefill_chunk_tokens > config.max_batch_rows) {
    problems.push_back("--prefill-chunk-tokens: must be at most --max-batch-rows (" +
                       std::to_string(config.max_batch_rows) + "), got " +
                       std::to_string(config.prefill_chunk_tokens));
  }
}

}  // namespace

ServerCommand ParseServerCommand(int argc, const char* const* argv) {
  ServerCommand command;
  std::vector<Setting> settings = SettingsOf(command.config);
  CLI::App app("Serves trees of text from a Llama-style model over gRPC (package espalier.v1).",
               "espalier-server");
  std::string config_file;
  app.add_option("--config", config_file, "Configuration file: JSON in which // comments are accepted");
  std::vector<std::string> values(settings.size());
  std::vector<CLI::Option*> flags(settings.size());
  for (size_t i = 0; i < settings.size(); ++i) {
    std::string current = settings[i].get().dump();
    if (current != "\"\"") current = " [" + settings[i].get().dump() + "]";
    flags[i] = app.add_option(FlagOf(settings[i].key), values[i],
                              settings[i].help + (current == "\"\"" ? "" : current));
  }
  app.add_flag("--check-config", command.check_config,
               "Check configuration and model folder, print them and exit");
  app.add_flag("--version", command.show_version, "Print the version and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    command.show_help = true;
    command.help = app.help();
    return command;
  } catch (const CLI::ParseError& error) {
    command.problems.push_back(std::string("command line: ") + error.what());
    return command;
  }
  if (command.show_version) return command;
  if (!config_file.empty()) ReadFile(config_file, settings, command.problems);
  for (size_t i = 0; i < settings.size(); ++i) {
    if (flags[i]->count() == 0) continue;
    if (const std::string wrong = settings[i].set(values[i]); !wrong.empty()) {
      command.problems.push_back(FlagOf(settings[i].key) + ": " + wrong);
    }
  }
  CheckTogether(command.config, command.problems);
  return command;
}

std::string ToJson(const ServerConfig& config) {
  ServerConfig copy = config;
  Json root = Json::object();
  for (const Setting& setting : SettingsOf(copy)) root[setting.key] = setting.get();
  return root.dump(2);
}

}  // namespace espalier
