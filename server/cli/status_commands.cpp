#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "espalier/v1/model.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_lines.h"
#include "server/console/manual.h"

namespace espalier::cli {
namespace {

int Model(const CommonOptions& common) {
  const auto stub = v1::ModelService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  const CancelOnSignal cancel(context);
  v1::GetModelResponse response;
  const grpc::Status status = stub->GetModel(&context, {}, &response);
  if (status.ok()) PrintMessage(response, common.json);
  return Report(status, common.server, common.json);
}

// grpc.health.v1.Health/Check for the whole server. The request has no field set; the answer's field 1 is the
// status.
int Health(const CommonOptions& common) {
  constexpr char kStatusTag = 0x08;
  constexpr char kServing = 1;
  constexpr std::chrono::seconds kDeadline(5);
  grpc::GenericStub stub(Connect(common.server));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  const CancelOnSignal cancel(context);
  grpc::CompletionQueue queue;
  const grpc::ByteBuffer request(nullptr, 0);
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->StartCall();
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    status = {status.error_code(), "no answer within " + std::to_string(kDeadline.count()) + " seconds"};
  }
  if (!status.ok()) return Report(status, common.server, common.json);
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (answer.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices)
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  const bool serving = bytes.size() >= 2 && bytes[0] == kStatusTag && bytes[1] == kServing;
  if (common.json) {
    PrintLine({{"serving", serving}});
  } else {
    std::printf("%s\n", serving ? "serving" : "not serving");
  }
  return serving ? kExitDone : kExitFailed;
}

}  // namespace

void AddModel(CLI::App& app, const CommonOptions& common, Run& run) {
  CLI::App* command = app.add_subcommand("model", "The loaded model, its limits, and what runs it");
  Describe(*command,
           {.usage = "[--json]",
            .more = "max_path_tokens is the longest path of a tree in tokens, max_branches the most "
                    "branches alive in one request.",
            .examples = {{"", "espalier model"}},
            .exit_codes = {},
            .see = {}});
  command->callback([&common, &run] { run = [&common] { return Model(common); }; });
}

void AddHealth(CLI::App& app, const CommonOptions& common, Run& run) {
  CLI::App* command = app.add_subcommand("health", "Whether the server serves");
  Describe(*command,
           {.usage = "[--json]",
            .more = "Asks grpc.health.v1.Health/Check and waits at most 5 seconds. Made for the health "
                    "checks of containers and services.",
            .examples = {{"", "espalier health && echo up"}},
            .exit_codes = "0 it serves; 1 it does not serve now, or does not answer in time; 2 wrong "
                          "usage; 3 it cannot be reached.",
            .see = {}});
  command->callback([&common, &run] { run = [&common] { return Health(common); }; });
}

}  // namespace espalier::cli
