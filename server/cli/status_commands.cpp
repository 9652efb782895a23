#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>

#include <cstdio>
#include <string>

#include "espalier/v1/admin.grpc.pb.h"
#include "espalier/v1/model.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_lines.h"

namespace espalier::cli {
namespace {

// A flat message, field by field under the proto's own names, all of them.
Json ToJson(const google::protobuf::Message& message) {
  using google::protobuf::FieldDescriptor;
  const auto* reflection = message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    Json& value = object[field->name()];
    if (field->is_repeated()) {
      value = Json::array();
      for (int k = 0; k < reflection->FieldSize(message, field); ++k) {
        value.push_back(reflection->GetRepeatedInt32(message, field, k));
      }
      continue;
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        value = reflection->GetInt32(message, field);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        value = reflection->GetInt64(message, field);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        value = reflection->GetString(message, field);
        break;
      default:
        value = nullptr;
        break;
    }
  }
  return object;
}

void Print(const google::protobuf::Message& message, bool as_json) {
  const Json object = ToJson(message);
  if (as_json) return PrintLine(object);
  for (const auto& [name, value] : object.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    std::printf("%-24s %s\n", name.c_str(), text.c_str());
  }
}

int Model(const CommonOptions& common) {
  const auto stub = v1::ModelService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  v1::GetModelResponse response;
  const grpc::Status status = stub->GetModel(&context, {}, &response);
  if (status.ok()) Print(response, common.json);
  return Report(status, common.server, common.json);
}

int Stats(const CommonOptions& common) {
  const auto stub = v1::AdminService::NewStub(Connect(common.server));
  grpc::ClientContext context;
  v1::GetStatsResponse response;
  const grpc::Status status = stub->GetStats(&context, {}, &response);
  if (status.ok()) Print(response, common.json);
  return Report(status, common.server, common.json);
}

// grpc.health.v1.Health/Check for the whole server. The request has no field set; the answer's field 1 is the
// status.
int Health(const CommonOptions& common) {
  constexpr char kStatusTag = 0x08;
  constexpr char kServing = 1;
  grpc::GenericStub stub(Connect(common.server));
  grpc::ClientContext context;
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
  app.add_subcommand("model", "The loaded model and what runs it")->callback([&common, &run] {
    run = [&common] { return Model(common); };
  });
}

void AddStats(CLI::App& app, const CommonOptions& common, Run& run) {
  app.add_subcommand("stats", "Blocks, requests and times of the server")->callback([&common, &run] {
    run = [&common] { return Stats(common); };
  });
}

void AddHealth(CLI::App& app, const CommonOptions& common, Run& run) {
  app.add_subcommand("health", "Whether the server serves: exit code 0, 1 or 3 (not reachable)")
      ->callback([&common, &run] { run = [&common] { return Health(common); }; });
}

}  // namespace espalier::cli
