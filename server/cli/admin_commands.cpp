#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/cli/admin.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_lines.h"
#include "server/console/manual.h"
#include "server/console/terminal.h"

namespace espalier::cli {
namespace {

int Flush(const CommonOptions& common) {
  Admin admin;
  if (const int code = ConnectAdmin(common, admin); code != kExitDone) return code;
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::FlushCacheResponse response;
  const grpc::Status status = admin.stub->FlushCache(&context, {}, &response);
  if (status.ok()) PrintMessage(response, common.json);
  return ReportAdmin(status, admin, common.json);
}

// A node a line, what stands below a node indented below it.
void PrintNodes(const v1::GetTreeSnapshotResponse& snapshot) {
  constexpr int kMaxIndent = 20;
  std::vector<std::string> lines = {"  node  position  tokens  computed  blocks  pins  cached"};
  std::map<int32_t, int> depths;                     // of nodes
  for (const v1::KvNode& node : snapshot.nodes()) {  // parents first
    const auto parent = depths.find(node.parent_id());
    const int depth = parent == depths.end() ? 0 : parent->second + 1;
    depths[node.id()] = depth;
    std::array<char, 128> line{};
    std::snprintf(line.data(), line.size(), "%6d  %8d  %6d  %8d  %6d  %4d  %-6s", node.id(),
                  node.begin_position(), node.tokens(), node.computed_tokens(), node.blocks(), node.pins(),
                  node.indexed() ? "yes" : "no");
    std::string text = line.data() + std::string(static_cast<size_t>(std::min(depth, kMaxIndent)), ' ') + "└";
    for (const int32_t id : node.first_token_ids()) text += " " + std::to_string(id);
    lines.push_back(std::move(text));
  }
  PrintLines(lines);
}

int Snapshot(const CommonOptions& common, bool tokens) {
  Admin admin;
  if (const int code = ConnectAdmin(common, admin); code != kExitDone) return code;
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::GetTreeSnapshotRequest request;
  request.set_include_tokens(tokens);
  v1::GetTreeSnapshotResponse response;
  const grpc::Status status = admin.stub->GetTreeSnapshot(&context, request, &response);
  if (status.ok() && common.json) {
    Json nodes = Json::array();
    for (const v1::KvNode& node : response.nodes()) nodes.push_back(MessageToJson(node));
    PrintLine({{"nodes", std::move(nodes)}});
  } else if (status.ok()) {
    PrintNodes(response);
  }
  return ReportAdmin(status, admin, common.json);
}

}  // namespace

void AddFlush(CLI::App& app, const CommonOptions& common, Run& run) {
  CLI::App* command = app.add_subcommand("flush", "Drop every cached prefix that no branch uses");
  Describe(*command, {.usage = "[--json]",
                      .more = "Prints how many KV blocks were freed.",
                      .examples = {{"", "espalier flush"}},
                      .exit_codes = {},
                      .see = {}});
  command->callback([&common, &run] { run = [&common] { return Flush(common); }; });
}

void AddSnapshot(CLI::App& app, const CommonOptions& common, Run& run) {
  CLI::App* command =
      app.add_subcommand("snapshot", "The KV tree as it stands: nodes, blocks, what is cached");
  auto tokens = std::make_shared<bool>(false);
  command->add_flag("--tokens", *tokens,
                    "With the first token ids of each node: parts of the texts of all clients");
  Describe(*command,
           {.usage = "[--tokens] [--json]",
            .more = "A node a line, parents first; proto/espalier/v1/admin.proto describes the columns. "
                    "The server logs who asks for tokens.",
            .examples = {{"", "espalier snapshot"}},
            .exit_codes = {},
            .see = {}});
  command->callback(
      [tokens, &common, &run] { run = [tokens, &common] { return Snapshot(common, *tokens); }; });
}

}  // namespace espalier::cli
