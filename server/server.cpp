#include "server/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/backend_runner.h"
#include "model/folder_hints.h"
#include "server/admin_service.h"
#include "server/endpoint.h"
#include "server/heap_trimmer.h"
#include "server/model_service.h"
#include "server/process.h"
#include "server/request_limits.h"
#include "server/tree_service.h"
#include "server/unread_answers.h"
#include "server/worker_pool.h"

namespace espalier {
namespace {

constexpr int64_t kMaxWaitingMessageBytes = int64_t{256} << 20;

// Of the threads that read messages and encode texts: few, for the model needs the processor too.
int IntakeThreads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 4, 2U, 8U)); }

class GrpcServer final : public Server {
 public:
  GrpcServer(const ServerConfig& config, std::unique_ptr<Engine> engine,
             std::shared_ptr<const Tokenizer> tokenizer)
      : config_(config),
        tokenizer_(std::move(tokenizer)),
        engine_(std::move(engine)),
        limits_(RequestLimits(engine_->limits(), *tokenizer_)),
        unread_(std::make_shared<UnreadAnswers>(config_.max_unread_bytes)),
        intake_(IntakeThreads(), kMaxWaitingMessageBytes),
        trees_(*engine_, *tokenizer_, Methods()),
        models_(*engine_, *tokenizer_, config_, Methods()),
        admin_(*engine_, Methods()) {}

  ~GrpcServer() override {
    if (!drained_) Stop(0);
  }

  Status Listen() {
    if (Status status = ListenForAdmin(); !status) return status;
    models_.SetAdminAddress(admin_address_);
    elsewhere_.SetAdminAddress(admin_address_);
    std::vector<NamedService> services = {{v1::TreeService::service_full_name(), &trees_},
                                          {v1::ModelService::service_full_name(), &models_}};
    if (admin_endpoint_ != nullptr) services.push_back({v1::AdminService::service_full_name(), nullptr});
    auto endpoint = Endpoint::Start({.flag = "--listen",
                                     .address = config_.listen,
                                     .port_flag = "--port-file",
                                     .port_file = config_.port_file,
                                     .limits = config_.transport,
                                     .otherwise = &elsewhere_},
                                    services);
    if (!endpoint) return endpoint.error();
    endpoint_ = std::move(*endpoint);
    engine_->OnFailure([this](const Error& error) {
      spdlog::error("{}: nothing can be served any more, health is NOT_SERVING", error.ToString());
      StopServing();
    });
    return {};
  }

  int port() const override { return endpoint_->port(); }
  const std::string& address() const override { return endpoint_->address(); }
  const std::string& admin_address() const override { return admin_address_; }
  Engine& engine() override { return *engine_; }
  void Drain() override { Stop(config_.drain_timeout_ms); }

 private:
  // At its default address it gives way to what listens there already; one that was chosen or waits
  // for is required.
  Status ListenForAdmin() {
    if (!AdminListens(config_)) return {};
    constexpr int32_t kMaxConnections = 64;  // of those who run the server; the file limit is for its clients
    TransportLimits limits = config_.transport;
    if (limits.max_connections == 0 || limits.max_connections > kMaxConnections)
      limits.max_connections = kMaxConnections;
    auto endpoint = Endpoint::Start({.flag = "--admin-listen",
                                     .address = config_.admin_listen,
                                     .port_flag = "--admin-port-file",
                                     .port_file = config_.admin_port_file,
                                     .limits = limits},
                                    {{v1::AdminService::service_full_name(), &admin_}});
    if (endpoint) {
      admin_endpoint_ = std::move(*endpoint);
      admin_address_ = admin_endpoint_->address();
      return {};
    }
    if (config_.admin_listen_given || !config_.admin_port_file.empty()) return endpoint.error();
    spdlog::warn("admin     off: {}; --admin-listen names another address, or says off",
                 endpoint.error().message);
    return {};
  }

  MethodContext Methods() { return {intake_, limits_, *unread_}; }

  void StopServing() {
    endpoint_->StopServing();
    if (admin_endpoint_ != nullptr) admin_endpoint_->StopServing();
  }

  void Stop(int64_t timeout_ms) {
    drained_ = true;
    if (endpoint_ == nullptr) return;
    engine_->OnFailure(nullptr);
    StopServing();
    engine_->Drain(timeout_ms * 1000);
    // Clients that send one request after another hear UNAVAILABLE: once it shuts down, gRPC itself answers
    // what arrives with CANCELLED.
    if (timeout_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    // Every tree has had its last event; what is left is writing it out to readers that may have stopped
    // reading.
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(2);
    endpoint_->Stop(deadline);
    if (admin_endpoint_ != nullptr)
      admin_endpoint_->Stop(deadline);  // an operator who drains a server watches this
  }

  const ServerConfig config_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  const MessageLimits limits_;
  const std::shared_ptr<UnreadAnswers> unread_;
  WorkerPool intake_;
  TreeService trees_;
  ModelService models_;
  AdminService admin_;
  AdminElsewhere elsewhere_;
  std::string admin_address_;
  std::unique_ptr<Endpoint> admin_endpoint_;
  std::unique_ptr<Endpoint> endpoint_;
  HeapTrimmer heap_trimmer_;
  bool drained_ = false;
};

// An error of loading in terms of the server's settings.
Error InTermsOfSettings(Error error) {
  std::string flag = error.field;
  for (char& c : flag) c = c == '_' ? '-' : c;
  if (flag == "max-rows") flag = "max-batch-rows";
  for (const char* known : {"backend", "isa", "threads", "kv-cache-bytes", "block-tokens", "max-positions",
                            "dtype", "weights", "model", "max-batch-rows"}) {
    if (flag == known) error.field = "--" + flag;
  }
  return error;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                              const std::function<void()>& loaded) {
  if (auto status = CheckModelFolder(config.model); !status.ok()) return status.error();
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
  options.max_positions = config.max_positions;
  auto runner = LoadModel(config.model, options);
  if (!runner) return InTermsOfSettings(runner.error());
  const ModelInfo& model = (*runner)->info();
  // Files next to a tokenizer may add tokens that the model has no rows for: padding, often.
  if ((*tokenizer)->vocab_size() > model.vocab_size)
    tokenizer = LoadTokenizer(config.model, model.vocab_size);
  if (!tokenizer) return tokenizer.error();
  // As some models are (CodeLlama 34B): the engine refuses such tokens by the field of the text that has
  // them.
  if ((*tokenizer)->vocab_size() > model.vocab_size) {
    spdlog::warn("the tokenizer has {} tokens, the model only {}: texts with the others are refused",
                 (*tokenizer)->vocab_size(), model.vocab_size);
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
  if (!engine) return InTermsOfSettings(engine.error());
  if (Status room = CheckRoomToServe(); !room) return room.error();
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
