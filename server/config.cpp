#include "server/config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "model/folder_hints.h"
#include "server/address.h"
#include "server/console/completion.h"
#include "server/console/manual.h"
#include "server/located_json.h"
#include "server/setting.h"
#include "server/transport_settings.h"

namespace espalier {
namespace {

using cli::FlagOf;
using Json = LocatedJson::Json;

std::vector<Setting> SettingsOf(ServerConfig& c) {
  auto text_choice = [](std::string key, std::string& target, const std::vector<std::string>& names,
                        const std::string& help) {
    return ChoiceSetting(
        std::move(key), names, help, [&target](const std::string& name) { target = name; },
        [&target] { return target; });
  };
  std::vector<Setting> settings;
  settings.push_back(TextSetting("model", c.model, "Folder of the model, in Hugging Face form (required)"));
  settings.push_back(
      TextSetting("listen", c.listen, "HOST:PORT to listen at, port 0 takes any free one; or unix:PATH"));
  settings.push_back(TextSetting("port_file", c.port_file, "File to write the port to, once listening"));
  settings.push_back(TextSetting("admin_listen", c.admin_listen,
                                 "Where AdminService listens, as for --listen; off: nowhere"));
  settings.push_back(TextSetting("admin_port_file", c.admin_port_file,
                                 "File to write AdminService's port to, once listening"));
  settings.push_back(
      text_choice("backend", c.backend, {"auto", "cpu", "cuda", "ref"}, "What runs the model"));
  settings.push_back(text_choice("isa", c.isa, {"auto", "amx", "avx512", "avx2", "portable"},
                                 "Instruction set of the CPU backend"));
  settings.push_back(ChoiceSetting(
      "dtype", {"bfloat16", "float32"}, "Type of weights, KV and matrix operands",
      [&c](const std::string& name) { c.dtype = name == "float32" ? DType::kFloat32 : DType::kBFloat16; },
      [&c] { return std::string(Name(c.dtype)); }));
  settings.push_back(ChoiceSetting(
      "weights", {"dtype", "int8"}, "Type of weights in matrix products: dtype's, or int8 (not on cuda)",
      [&c](const std::string& name) { c.weights = name == "int8" ? WeightType::kInt8 : WeightType::kDType; },
      [&c] { return std::string(Name(c.weights)); }));
  settings.push_back(
      IntegerSetting("threads", c.threads, 0, 1024, "Threads of the CPU backend; 0: every core"));
  settings.push_back(BytesSetting(
      "kv_cache_bytes", c.kv_cache_bytes, 0, int64_t{1} << 50,
      "Size of the KV pool, such as 8GiB; 0: what a GPU has left next to the model, 1 GiB on the CPU"));
  settings.push_back(ChoiceSetting(
      "block_tokens", {"16", "32"}, "Tokens of a KV block",
      [&c](const std::string& name) { c.block_tokens = name == "32" ? 32 : 16; },
      [&c] { return std::to_string(c.block_tokens); }));
  settings.back().kind = Setting::Kind::kInteger;
  settings.back().get = [&c] { return Json(c.block_tokens); };
  settings.push_back(IntegerSetting("max_positions", c.max_positions, 0, 1 << 26,
                                    "Longest path of a tree in tokens; 0: as the model allows"));
  settings.push_back(
      IntegerSetting("max_branches", c.max_branches, 1, 65536, "Branches alive at one time in one request"));
  settings.push_back(IntegerSetting("max_batch_rows", c.max_batch_rows, 1, 65536, "Rows of one step"));
  settings.push_back(IntegerSetting("prefill_chunk_tokens", c.prefill_chunk_tokens, 1, 65536,
                                    "Prefill rows of a step while branches decode"));
  settings.push_back(IntegerSetting("max_queued_requests", c.max_queued_requests, 1, 1 << 20,
                                    "Requests that may wait; more are refused"));
  settings.push_back(BytesSetting("max_answer_bytes", c.max_answer_bytes, 1 << 10, int64_t{1} << 29,
                                  "Bytes of the largest answer that a request may ask for"));
  settings.push_back(BytesSetting("max_unread_bytes", c.max_unread_bytes, 1 << 10, int64_t{1} << 40,
                                  "Bytes of answers that a client may leave unread"));
  AddTransportSettings(c.transport, settings);
  settings.push_back(ChoiceSetting(
      "attention_mode", {"flatten", "sequence"},
      "How attention is divided into work: by the tree's KV, or for comparison by branches",
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
  settings.back().choices = {"true", "false"};
  return settings;
}

// "; did you mean x?", or nothing.
std::string Suggestion(const std::string& word, const std::vector<std::string>& names) {
  const auto name = ClosestWord(word, names);
  return name ? "; did you mean " + *name + "?" : "";
}

// Sets what a member of the file gives; returns what is wrong, with the member's place in `place`.
std::string ReadMember(const LocatedJson& json, const std::string& key, const Json& value,
                       std::vector<Setting>& settings, TextPlace& place) {
  place = json.KeyPlaceOf(key);
  Setting* setting = Find(settings, key);
  if (setting == nullptr) {
    std::vector<std::string> keys;
    keys.reserve(settings.size());
    for (const Setting& known : settings) keys.push_back(known.key);
    return "unknown setting" + Suggestion(key, keys);
  }
  place = json.PlaceOf(key);
  setting->refused = true;
  if (!HasKind(value, setting->kind)) {
    const std::string got = value.is_array() ? "an array" : value.is_object() ? "an object" : value.dump();
    return std::string("must be ") + NameOf(setting->kind) + ", got " + got;
  }
  std::string wrong = setting->set(value.is_string() ? value.get<std::string>() : value.dump());
  setting->refused = !wrong.empty();
  return wrong;
}

void ReadFile(const std::string& path, std::vector<Setting>& settings, std::vector<std::string>& problems) {
  std::error_code failure;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, failure)) {
    problems.push_back("--config: " + path + ": " +
                       (std::filesystem::exists(path, failure) ? "cannot be read" : "there is no such file"));
    return;
  }
  std::ostringstream content;
  content << file.rdbuf();
  const LocatedJson json(content.str());
  std::vector<TextFault> faults = json.faults();
  if (json.value().is_object()) {
    for (const auto& [key, value] : json.value().items()) {
      TextPlace place;
      const std::string wrong = ReadMember(json, key, value, settings, place);
      if (!wrong.empty()) faults.push_back({place, key + ": " + wrong});
      if (Setting* setting = Find(settings, key)) setting->place = TextFault{place, key}.In(path);
    }
  } else if (faults.empty()) {
    faults.push_back({json.PlaceOf(""), "must hold one JSON object, { ... }"});
  }
  std::stable_sort(faults.begin(), faults.end(), [](const TextFault& a, const TextFault& b) {
    return std::tie(a.place.line, a.place.column) < std::tie(b.place.line, b.place.column);
  });
  for (const TextFault& fault : faults) problems.push_back(fault.In(path));
}

// What can be checked only from several settings, or from the file system.
void CheckTogether(const ServerConfig& config, std::vector<Setting>& settings,
                   std::vector<std::string>& problems) {
  auto complain = [&](const std::string& key, const std::string& why) {
    const Setting& setting = *Find(settings, key);
    if (setting.refused) return;
    problems.push_back((setting.place.empty() ? FlagOf(key) : setting.place) + ": " + why);
  };
  std::error_code failure;
  if (config.model.empty()) {
    complain("model", "required: the folder of a model");
  } else if (const Status folder = CheckFolder(config.model); !folder) {
    complain("model", config.model + " " + folder.error().message);
  }
  if (!ParseAddress(config.listen)) {
    complain("listen",
             "must be HOST:PORT with a port in [0, 65535], or unix:PATH, got '" + config.listen + "'");
  }
  if (AdminListens(config)) {
    const auto admin = ParseAddress(config.admin_listen);
    if (!admin) {
      complain("admin_listen", "must be HOST:PORT with a port in [0, 65535], unix:PATH, or off, got '" +
                                   config.admin_listen + "'");
    } else if (config.admin_listen == config.listen && (admin->is_unix() || admin->port != 0)) {
      complain("admin_listen", "must be another address than that of listen, " + config.listen);
    }
  } else if (!config.admin_port_file.empty()) {
    complain("admin_port_file", "there is no port to write, admin_listen is off");
  }
  for (const auto& [key, file] :
       {std::pair("port_file", config.port_file), std::pair("admin_port_file", config.admin_port_file)}) {
    const auto folder = std::filesystem::absolute(file, failure).parent_path();
    if (!file.empty() && !std::filesystem::is_directory(folder, failure)) {
      complain(key, "there is no folder " + folder.string());
    }
  }
  if (config.isa != "auto" && config.backend != "auto" && config.backend != "cpu") {
    complain("isa", "only the cpu backend has a choice, and backend is " + config.backend);
  }
  if (config.weights == WeightType::kInt8 && config.backend == "cuda") {
    complain("weights", "the cuda backend has no int8 weights yet; the cpu backend has");
  }
  if (config.max_unread_bytes < config.max_answer_bytes) {
    complain("max_unread_bytes", "must be at least max_answer_bytes (" +
                                     std::to_string(config.max_answer_bytes) +
                                     "), so that no answer ends because its reader pauses, got " +
                                     std::to_string(config.max_unread_bytes));
  }
  const std::string chunk = std::to_string(config.prefill_chunk_tokens);
  const std::string rows = std::to_string(config.max_batch_rows);
  if (config.prefill_chunk_tokens > config.max_batch_rows) {
    if (Find(settings, "prefill_chunk_tokens")->place.empty()) {
      complain("max_batch_rows", "must be at least prefill_chunk_tokens (" + chunk + "), got " + rows);
    } else {
      complain("prefill_chunk_tokens", "must be at most max_batch_rows (" + rows + "), got " + chunk);
    }
  }
}

// What the command line holds in addition to known flags.
void ListUnknown(const std::vector<std::string>& arguments, const std::vector<Setting>& settings,
                 std::vector<std::string>& problems) {
  std::vector<std::string> flags = {"--config", "--check-config", "--completion", "--version", "--help"};
  for (const Setting& setting : settings) flags.push_back(FlagOf(setting.key));
  bool after_flag = false;  // then it may be that flag's value
  for (const std::string& argument : arguments) {
    const bool is_flag = argument.starts_with('-');
    const std::string name = argument.substr(0, argument.find('='));
    if (name == "--host" || name == "--port" || name == "--bind") {
      problems.push_back(name + ": unknown flag; the address is --listen HOST:PORT");
    } else if (is_flag) {
      problems.push_back(name + ": unknown flag" + Suggestion(name, flags));
    } else if (!after_flag) {
      problems.push_back("'" + argument + "': not understood, every setting is a flag (see --help)");
    }
    after_flag = is_flag;
  }
}

// How --help names the value of a setting; behind it, for completion, what it may be where that is a list.
std::string ValueName(const Setting& setting) {
  if (setting.key == "model") return "DIR";
  if (setting.key == "listen" || setting.key == "admin_listen") return "HOST:PORT";
  if (setting.key == "port_file" || setting.key == "admin_port_file") return "FILE";
  const std::string name = setting.kind == Setting::Kind::kInteger   ? "N"
                           : setting.kind == Setting::Kind::kBytes   ? "BYTES"
                           : setting.kind == Setting::Kind::kBoolean ? "true|false"
                                                                     : "NAME";
  std::string choices;
  for (const std::string& choice : setting.choices) choices += (choices.empty() ? "" : ",") + choice;
  return choices.empty() ? name : name + ":{" + choices + "}";
}

void DescribeProgram(CLI::App& app) {
  cli::Describe(
      app,
      {.usage = "--model DIR [options]",
       .more =
           "Settings come from the flags below and from a file; flags win. A setting of the file is named as "
           "its "
           "flag, with _ for -: \"max_batch_rows\" is --max-batch-rows. SIGTERM and Ctrl-C let running trees "
           "finish for a while and refuse new ones; a second signal stops at once.",
       .examples = {{"The demo model:", "espalier-server --model model/demo"},
                    {"What a file and the flags come to, and every mistake in them:",
                     "espalier-server --config configs/server.json --check-config"},
                    {"Completion in this shell:", "source <(espalier-server --completion bash)"}},
       .exit_codes = "0 stopped by a signal; 1 failed; 2 wrong usage, configuration or model.",
       .see = "configs/server.json has every setting with its default, described. The client: espalier "
              "--help. The "
              "interface: proto/espalier/v1."});
}

}  // namespace

ServerCommand ParseServerCommand(int argc, const char* const* argv) {
  ServerCommand command;
  std::vector<Setting> settings = SettingsOf(command.config);
  CLI::App app("Serves trees of text from a Llama-style model over gRPC (package espalier.v1)",
               "espalier-server");
  DescribeProgram(app);
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.allow_extras();  // listed below, all of them
  std::string config_file;
  app.add_option("--config", config_file, "Configuration file: JSON in which // comments are accepted")
      ->type_name("FILE");
  std::vector<std::string> values(settings.size());
  std::vector<CLI::Option*> flags(settings.size());
  for (size_t i = 0; i < settings.size(); ++i) {
    const Json value = settings[i].get();
    const std::string current = value.is_string() ? value.get<std::string>() : value.dump();
    flags[i] = app.add_option(FlagOf(settings[i].key), values[i],
                              settings[i].help + (current.empty() ? "" : " [" + current + "]"))
                   ->type_name(ValueName(settings[i]));
  }
  app.add_flag("--check-config", command.check_config,
               "Check configuration and model folder, print the configuration and exit");
  std::string shell;
  app.add_option("--completion", shell, "Print a script that completes these flags in a shell, and exit")
      ->check(CLI::IsMember(cli::CompletedShells()))
      ->type_name("SHELL");
  app.add_flag("--version", command.show_version, "Print the version and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    command.show_help = true;
    command.help = app.help();
    return command;
  } catch (const CLI::ParseError& error) {
    command.problems.push_back("command line: " + cli::FaultOf(error));
    return command;
  }
  if (!shell.empty()) command.completion = cli::Completion(app, shell, "espalier-server --completion");
  if (command.show_version || !shell.empty()) return command;
  if (app.get_option("--config")->count() > 0) ReadFile(config_file, settings, command.problems);
  for (const Setting& setting : settings) {
    if (!setting.place.empty()) command.places[FlagOf(setting.key)] = setting.place;
  }
  for (size_t i = 0; i < settings.size(); ++i) {
    if (flags[i]->count() == 0) continue;
    const std::string flag = FlagOf(settings[i].key);
    settings[i].place = flag;
    command.places.erase(flag);
    const std::string wrong = settings[i].set(values[i]);
    settings[i].refused = !wrong.empty();
    if (settings[i].refused) command.problems.push_back(flag + ": " + wrong);
  }
  command.config.admin_listen_given = !Find(settings, "admin_listen")->place.empty();
  ListUnknown(app.remaining(), settings, command.problems);
  CheckTogether(command.config, settings, command.problems);
  return command;
}

bool AdminListens(const ServerConfig& config) {
  return !config.admin_listen.empty() && config.admin_listen != "off";
}

std::string ToJson(const ServerConfig& config) {
  ServerConfig copy = config;
  Json root = Json::object();
  for (const Setting& setting : SettingsOf(copy)) root[setting.key] = setting.get();
  return root.dump(2);
}

}  // namespace espalier
