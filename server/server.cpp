#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <netdb.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "model/llama_runner.h"
#include "server/admin_service.h"
#include "server/cli/address.h"
#include "server/model_service.h"
#include "server/tree_service.h"

namespace espalier {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;

// Whoever sees the file finds all of it: it is written beside its place and moved there. What is no file (a
// pipe, /dev/stdout) is written to.
Status WritePortFile(const std::string& path, int port) {
  std::error_code unknown;
  const auto type = std::filesystem::status(path, unknown).type();
  const bool is_file =
      type == std::filesystem::file_type::not_found || type == std::filesystem::file_type::regular;
  const std::string beside = is_file ? path + ".new" : path;
  std::ofstream file(beside, std::ios::trunc);
  file << port << '\n';
  file.close();
  std::error_code failed;
  if (file && is_file) std::filesystem::rename(beside, path, failed);
  if (file && !failed) return {};
  if (is_file) std::filesystem::remove(beside, unknown);
  return InvalidArgument("--port-file", "cannot write " + path);
}

// gRPC says only that it cannot listen at HOST:PORT; trying it here says why. Empty: it would work now.
std::string WhyNotListening(const std::string& address) {
  const std::optional<cli::Address> parsed = cli::ParseAddress(address);
  if (!parsed) return "not HOST:PORT";
  std::string host = parsed->host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int unknown = getaddrinfo(host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
  if (unknown != 0) return gai_strerror(unknown);
  std::string why;
  for (const addrinfo* each = found; each != nullptr && why.empty(); each = each->ai_next) {
    const int file = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
    const int on = 1;  // as gRPC has it: connections of an earlier server do not count
    if (file < 0 || setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(file, each->ai_addr, each->ai_addrlen) != 0 || listen(file, 1) != 0) {
      why = std::generic_category().message(errno);
    }
    if (file >= 0) close(file);
  }
  freeaddrinfo(found);
  return why;
}

class GrpcServer final : public Server {
 public:
  GrpcServer(const ServerConfig& config, std::unique_ptr<Engine> engine,
             std::shared_ptr<const Tokenizer> tokenizer)
      : config_(config),
        tokenizer_(std::move(tokenizer)),
        engine_(std::move(engine)),
        trees_(*engine_, *tokenizer_, config_.max_unread_bytes),
        models_(*engine_, *tokenizer_, config_),
        admin_(*engine_, trees_) {}

  ~GrpcServer() override {
    if (!drained_) Stop(0);
  }

  Status Listen() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // One server an address: a second one fails to start instead of sharing its requests.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.AddListeningPort(config_.listen, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&trees_);
    builder.RegisterService(&models_);
    builder.RegisterService(&admin_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      const std::string why = WhyNotListening(config_.listen);
      return InvalidArgument("--listen",
                             "cannot listen at " + config_.listen + (why.empty() ? "" : ": " + why));
    }
    for (const char* service : {v1::TreeService::service_full_name(), v1::ModelService::service_full_name(),
                                v1::AdminService::service_full_name()}) {
      server_->GetHealthCheckService()->SetServingStatus(service, true);
    }
    engine_->OnFailure([this](const Error& error) {
      spdlog::error("{}: nothing can be served any more, health is NOT_SERVING", error.ToString());
      server_->GetHealthCheckService()->SetServingStatus(false);
    });
    return config_.port_file.empty() ? Status() : WritePortFile(config_.port_file, port_);
  }

  int port() const override { return port_; }
  Engine& engine() override { return *engine_; }
  void Drain() override { Stop(config_.drain_timeout_ms); }

 private:
  void Stop(int64_t timeout_ms) {
    drained_ = true;
    if (server_ == nullptr) return;
    engine_->OnFailure(nullptr);
    server_->GetHealthCheckService()->SetServingStatus(false);
    engine_->Drain(timeout_ms * 1000);
    // Clients that send one request after another hear UNAVAILABLE: once it shuts down, gRPC itself answers
    // what arrives with CANCELLED.
    if (timeout_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    // Every tree has had its last event; what is left is writing it out to readers that may have stopped
    // reading.
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
    server_->Wait();
  }

  const ServerConfig config_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  TreeService trees_;
  ModelService models_;
  AdminService admin_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  bool drained_ = false;
};

// An error of loading in terms of the server's settings.
Error InTermsOfSettings(Error error) {
  std::string flag = error.field;
  for (char& c : flag) c = c == '_' ? '-' : c;
  for (const char* known :
       {"backend", "isa", "threads", "kv-cache-bytes", "block-tokens", "dtype", "weights"}) {
    if (flag == known) error.field = "--" + flag;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                              const std::function<void()>& loaded) {
  auto tokenizer = LoadTokenizer(config.model);
  if (!tokenizer) return tokenizer.error();
  RunnerOptions options;
  options.backend = {.name = config.backend,
                     .isa = config.isa,
                     .dtype = config.dtype,
                     .weights = config.weights,
                     .threads = config.threads,
                     .max_rows = config.max_batch_rows};
  options.block_tokens = config.block_tokens;
  options.kv_cache_bytes = config.kv_cache_bytes;
  auto runner = LoadModel(config.model, options);
  if (!runner) return InTermsOfSettings(runner.error());
  const ModelInfo& model = (*runner)->info();
  if ((*tokenizer)->vocab_size() > model.vocab_size) {
    return InvalidArgument(config.model, "the tokenizer has " + std::to_string((*tokenizer)->vocab_size()) +
                                             " tokens, the model only " + std::to_string(model.vocab_size));
  }
  const EngineOptions engine_options{.block_tokens = model.block_tokens,
                                     .total_blocks = model.kv_blocks,
                                     .max_branches = config.max_branches,
                                     .max_batch_rows = config.max_batch_rows,
                                     .prefill_chunk_tokens = config.prefill_chunk_tokens,
                                     .max_queued_requests = config.max_queued_requests,
                                     .max_answer_bytes = config.max_answer_bytes,
                                     .attention_mode = config.attention_mode,
                                     .check_invariants = config.check_invariants};
  std::shared_ptr<const Tokenizer> shared_tokenizer = std::move(*tokenizer);
  auto engine = Engine::Create(engine_options, std::move(*runner), shared_tokenizer);
  if (!engine) return engine.error();
  if (loaded) loaded();
  return Serve(config, std::move(*engine), std::move(shared_tokenizer));
}

Result<std::unique_ptr<Server>> Server::Serve(const ServerConfig& config, std::unique_ptr<Engine> engine,
                                              std::shared_ptr<const Tokenizer> tokenizer) {
  auto server = std::make_unique<GrpcServer>(config, std::move(engine), std::move(tokenizer));
  if (Status status = server->Listen(); !status) return status.error();
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace espalier
