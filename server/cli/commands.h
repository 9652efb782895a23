#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

namespace espalier::cli {

// What all commands share.
struct CommonOptions {
  std::string server = "127.0.0.1:50051";
  std::string admin;  // where AdminService is; empty: where the server says
  bool json = false;
};

// Each adds a subcommand to `app`; the chosen one sets `run`, which returns the exit code.
using Run = std::function<int()>;
void AddGenerate(CLI::App& app, const CommonOptions& common, Run& run);
void AddScore(CLI::App& app, const CommonOptions& common, Run& run);
void AddTokenize(CLI::App& app, const CommonOptions& common, Run& run);
void AddDetokenize(CLI::App& app, const CommonOptions& common, Run& run);
void AddModel(CLI::App& app, const CommonOptions& common, Run& run);
void AddStats(CLI::App& app, const CommonOptions& common, Run& run);
void AddFlush(CLI::App& app, const CommonOptions& common, Run& run);
void AddSnapshot(CLI::App& app, const CommonOptions& common, Run& run);
void AddHealth(CLI::App& app, const CommonOptions& common, Run& run);
void AddCompletion(CLI::App& app, Run& run);

}  // namespace espalier::cli
