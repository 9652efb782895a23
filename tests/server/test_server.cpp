#include "tests/server/test_server.h"

#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <thread>

#include "model/backend_runner.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/overflow_weights.h"

namespace espalier::test {

TestServer::TestServer(const TestServerOptions& options) {
  auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data" / options.tokenizer);
  REQUIRE(tokenizer.ok());
  ModelConfig model;
  model.vocab_size = (*tokenizer)->vocab_size();
  model.hidden_size = 32;
  model.intermediate_size = 48;
  model.layers.resize(2);
  model.query_heads = 4;
  model.kv_heads = 2;
  model.head_dim = 16;
  model.max_positions = 512;
  RunnerOptions runner_options;
  runner_options.backend = {.name = "ref", .dtype = DType::kFloat32, .max_rows = options.max_batch_rows};
  runner_options.kv_blocks = options.blocks;
  auto runner = RandomModel(model, /*seed=*/7, runner_options);
  if (options.overflow_token >= 0) {
    OverflowWeights weights(options.overflow_token, OverflowWeights::At::kHead, /*seed=*/7);
    runner = MakeModel(model, weights, "overflow", runner_options);
  }
  REQUIRE(runner.ok());
  if (options.pace) *runner = MakePacedRunner(std::move(*runner), options.pace);
  const EngineOptions engine_options{.total_blocks = options.blocks,
                                     .max_branches = options.max_branches,
                                     .max_batch_rows = options.max_batch_rows,
                                     .prefill_chunk_tokens = options.max_batch_rows / 2,
                                     .max_queued_requests = options.max_queued_requests,
                                     .max_answer_bytes = options.max_answer_bytes,
                                     .check_invariants = true};
  std::shared_ptr<const Tokenizer> shared_tokenizer = std::move(*tokenizer);
  auto engine = Engine::Create(engine_options, std::move(*runner), shared_tokenizer);
  REQUIRE(engine.ok());
  ServerConfig config;
  config.listen = options.listen;
  config.transport = options.transport;
  config.admin_listen = options.admin_listen;
  config.admin_listen_given = options.admin_listen_given;
  config.drain_timeout_ms = options.drain_timeout_ms;
  config.max_unread_bytes = options.max_unread_bytes;
  auto server = Server::Serve(config, std::move(*engine), shared_tokenizer);
  REQUIRE(server.ok());
  server_ = std::move(*server);
  address_ = server_->port() == 0 ? options.listen : "127.0.0.1:" + std::to_string(server_->port());
  channel_ = NewChannel();
  trees_ = v1::TreeService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
  if (server_->admin_address().empty()) return;
  admin_channel_ = grpc::CreateChannel(server_->admin_address(), grpc::InsecureChannelCredentials());
  admin_ = v1::AdminService::NewStub(admin_channel_);
}

TestServer::~TestServer() = default;

std::shared_ptr<grpc::Channel> TestServer::NewChannel(const grpc::ChannelArguments& arguments) const {
  return NewChannelTo(address_, arguments);
}

std::shared_ptr<grpc::Channel> NewChannelTo(const std::string& address, grpc::ChannelArguments arguments) {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

v1::GetStatsResponse TestServer::Stats() {
  grpc::ClientContext context;
  v1::GetStatsResponse response;
  REQUIRE(admin_->GetStats(&context, {}, &response).ok());
  return response;
}

void TestServer::WaitUntil(const std::function<bool(const v1::GetStatsResponse&)>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!holds(Stats())) {
    if (std::chrono::steady_clock::now() > deadline) FAIL("waited for a minute");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void TestServer::WaitUntilIdle() {
  WaitUntil([](const v1::GetStatsResponse& stats) { return stats.requests_active() == 0; });
  const v1::GetStatsResponse stats = Stats();
  CHECK(stats.branches_active() == 0);
  CHECK(stats.blocks_live() == 0);
  CHECK(stats.blocks_free() + stats.blocks_indexed() + stats.blocks_live() + stats.blocks_scratch() ==
        stats.blocks_total());
}

Generated Generate(v1::TreeService::Stub& stub, const v1::GenerateRequest& request) {
  Generated generated;
  grpc::ClientContext context;
  const auto reader = stub.Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) generated.events.push_back(response);
  generated.status = reader->Finish();
  return generated;
}

grpc::Status SendRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& bytes, std::string* answer_bytes) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(bytes);
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->StartCall();
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (answer_bytes != nullptr && status.ok() && answer.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices)
      answer_bytes->append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return status;
}

bool IsServing(const std::shared_ptr<grpc::Channel>& channel) {
  std::string answer;
  REQUIRE(SendRaw(channel, "/grpc.health.v1.Health/Check", "", &answer).ok());
  const bool serving = answer == "\x08\x01";  // field 1, SERVING
  REQUIRE((serving || answer == "\x08\x02"));
  return serving;
}

std::vector<std::vector<int32_t>> TokensOf(const v1::Finished& finished) {
  std::vector<std::vector<int32_t>> tokens;
  for (const v1::Branch& branch : finished.branches())
    tokens.emplace_back(branch.token_ids().begin(), branch.token_ids().end());
  return tokens;
}

v1::GenerateRequest FewShot(const std::string& prompt, int branches, int max_new_tokens) {
  v1::GenerateRequest request;
  request.set_seed(1);
  v1::TreeNode& root = *request.add_nodes();
  root.set_id("prompt");
  root.mutable_given()->set_text(prompt);
  v1::TreeNode& answer = *request.add_nodes();
  answer.set_id("answer");
  answer.set_parent_id("prompt");
  answer.mutable_generate()->set_branches(branches);
  answer.mutable_generate()->set_max_new_tokens(max_new_tokens);
  answer.mutable_generate()->set_ignore_eos(true);
  return request;
}

}  // namespace espalier::test
