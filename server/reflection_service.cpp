#include "server/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>
#include <utility>

#include <grpc/reflection/v1/reflection.grpc.pb.h>
#include <grpc/reflection/v1alpha/reflection.grpc.pb.h>

namespace espalier {
namespace {

namespace reflection_v1 = grpc::reflection::v1;
namespace reflection_v1alpha = grpc::reflection::v1alpha;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

// A file after all that it imports, each once.
void Collect(const FileDescriptor& file, std::set<const FileDescriptor*>& seen,
             std::vector<std::string>& files) {
  if (!seen.insert(&file).second) return;
  for (int i = 0; i < file.dependency_count(); ++i) Collect(*file.dependency(i), seen, files);
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  files.push_back(proto.SerializeAsString());
}

// The two versions have the same messages in two packages.
template <typename Request, typename Response>
class Answerer {
 public:
  explicit Answerer(const std::vector<std::string>& services) : services_(services) {}

  Response Answer(const Request& request) const {
    Response response;
    response.set_valid_host(request.host());
    *response.mutable_original_request() = request;
    switch (request.message_request_case()) {
      case Request::kListServices:
        for (const std::string& name : services_)
          response.mutable_list_services_response()->add_service()->set_name(name);
        break;
      case Request::kFileByFilename:
        SetFile(pool_.FindFileByName(request.file_by_filename()), request.file_by_filename(), response);
        break;
      case Request::kFileContainingSymbol:
        SetFile(pool_.FindFileContainingSymbol(request.file_containing_symbol()),
                request.file_containing_symbol(), response);
        break;
      case Request::kFileContainingExtension:
        SetExtension(request.file_containing_extension().containing_type(),
                     request.file_containing_extension().extension_number(), response);
        break;
      case Request::kAllExtensionNumbersOfType:
        SetExtensionNumbers(request.all_extension_numbers_of_type(), response);
        break;
      default:
        SetError(grpc::StatusCode::INVALID_ARGUMENT, "message_request: nothing is asked for", response);
    }
    return response;
  }

 private:
  static void SetError(grpc::StatusCode code, const std::string& message, Response& response) {
    response.mutable_error_response()->set_error_code(code);
    response.mutable_error_response()->set_error_message(message);
  }

  static void SetFile(const FileDescriptor* file, const std::string& name, Response& response) {
    if (file == nullptr) return SetError(grpc::StatusCode::NOT_FOUND, "there is no " + name, response);
    std::set<const FileDescriptor*> seen;
    std::vector<std::string> files;
    Collect(*file, seen, files);
    // Clients take the first as the one they asked for.
    for (auto each = files.rbegin(); each != files.rend(); ++each)
      response.mutable_file_descriptor_response()->add_file_descriptor_proto(*each);
  }

  void SetExtension(const std::string& type, int number, Response& response) const {
    const auto* message = pool_.FindMessageTypeByName(type);
    const auto* extension = message == nullptr ? nullptr : pool_.FindExtensionByNumber(message, number);
    SetFile(extension == nullptr ? nullptr : extension->file(),
            "extension " + std::to_string(number) + " of " + type, response);
  }

  void SetExtensionNumbers(const std::string& type, Response& response) const {
    const auto* message = pool_.FindMessageTypeByName(type);
    if (message == nullptr) return SetError(grpc::StatusCode::NOT_FOUND, "there is no " + type, response);
    std::vector<const google::protobuf::FieldDescriptor*> extensions;
    pool_.FindAllExtensions(message, &extensions);
    auto& numbers = *response.mutable_all_extension_numbers_response();
    numbers.set_base_type_name(type);
    for (const auto* extension : extensions) numbers.add_extension_number(extension->number());
  }

  const std::vector<std::string>& services_;
  const DescriptorPool& pool_ = *DescriptorPool::generated_pool();
};

// A stream of questions: reads one, writes its answer, reads the next.
template <typename Request, typename Response>
class Reactor final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  explicit Reactor(const std::vector<std::string>& services) : answerer_(services) {
    this->StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status::OK);
    response_ = answerer_.Answer(request_);
    this->StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return this->Finish(grpc::Status::CANCELLED);
    this->StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  Answerer<Request, Response> answerer_;
  Request request_;
  Response response_;
};

template <typename Service, typename Request, typename Response>
class ReflectionService final : public Service {
 public:
  explicit ReflectionService(std::vector<std::string> services) : services_(std::move(services)) {}

  grpc::ServerBidiReactor<Request, Response>* ServerReflectionInfo(
      grpc::CallbackServerContext* /*context*/) override {
    return new Reactor<Request, Response>(services_);
  }

 private:
  const std::vector<std::string> services_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeReflectionV1(std::vector<std::string> services) {
  return std::make_unique<
      ReflectionService<reflection_v1::ServerReflection::CallbackService,
                        reflection_v1::ServerReflectionRequest, reflection_v1::ServerReflectionResponse>>(
      std::move(services));
}

std::unique_ptr<grpc::Service> MakeReflectionV1Alpha(std::vector<std::string> services) {
  return std::make_unique<ReflectionService<reflection_v1alpha::ServerReflection::CallbackService,
                                            reflection_v1alpha::ServerReflectionRequest,
                                            reflection_v1alpha::ServerReflectionResponse>>(
      std::move(services));
}

}  // namespace espalier
