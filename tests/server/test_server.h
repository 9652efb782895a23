#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "espalier/v1/admin.grpc.pb.h"
#include "espalier/v1/model.grpc.pb.h"
#include "espalier/v1/tree.grpc.pb.h"
#include "server/server.h"
#include "tests/server/paced_runner.h"

namespace espalier::test {

struct TestServerOptions {
  int32_t blocks = 256;  // of 16 tokens
  int32_t max_batch_rows = 64;
  int32_t max_branches = 64;
  int32_t max_queued_requests = 64;
  int64_t drain_timeout_ms = 2000;
  int64_t max_answer_bytes = kDefaultAnswerBytes;
  int64_t max_unread_bytes = int64_t{1} << 28;
  std::string admin_listen = "127.0.0.1:0";  // off or not to be had: admin() and Stats() must not be called
  bool admin_listen_given = true;
  std::string tokenizer = "sp_bpe/tokenizer.model";  // below tests/model/tokenizer/data
  std::shared_ptr<Pace> pace = nullptr;              // where a test decides how fast steps run
  std::string listen = "127.0.0.1:0";
  TransportLimits transport = {};
  int32_t overflow_token = -1;  // >= 0: logits after this token are not finite
};

// A whole server in this process: a tiny Llama with hashed weights on the reference backend in fp32, a real
// tokenizer, gRPC on a free port. All invariants are checked at every step.
class TestServer {
 public:
  explicit TestServer(const TestServerOptions& options = {});
  ~TestServer();

  v1::TreeService::Stub& trees() { return *trees_; }
  v1::ModelService::Stub& models() { return *models_; }
  v1::AdminService::Stub& admin() { return *admin_; }
  Server& server() { return *server_; }
  const std::shared_ptr<grpc::Channel>& admin_channel() const { return admin_channel_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  std::shared_ptr<grpc::Channel> NewChannel(const grpc::ChannelArguments& arguments = {}) const;
  // Where a client finds the server.
  const std::string& address() const { return address_; }

  v1::GetStatsResponse Stats();
  // Waits until `holds(Stats())`; fails the test after a minute.
  void WaitUntil(const std::function<bool(const v1::GetStatsResponse&)>& holds);
  // Waits until no request runs or waits. Then no block may be live.
  void WaitUntilIdle();

 private:
  std::unique_ptr<Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<grpc::Channel> admin_channel_;
  std::unique_ptr<v1::TreeService::Stub> trees_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

// A channel with a connection of its own, which it shares with no other of this process.
std::shared_ptr<grpc::Channel> NewChannelTo(const std::string& address,
                                            grpc::ChannelArguments arguments = {});

// All that one Generate call gave.
struct Generated {
  grpc::Status status;
  std::vector<v1::GenerateResponse> events;

  const v1::Finished& finished() const { return events.back().finished(); }
};
Generated Generate(v1::TreeService::Stub& stub, const v1::GenerateRequest& request);

// Sends these bytes to a unary or server-streaming method and returns the status; `answer`: what came,
// encoded.
grpc::Status SendRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& bytes, std::string* answer = nullptr);

// What grpc.health.v1 answers for the whole server.
bool IsServing(const std::shared_ptr<grpc::Channel>& channel);

// The tokens of every branch, by number.
std::vector<std::vector<int32_t>> TokensOf(const v1::Finished& finished);

// A prompt and `branches` continuations of `max_new_tokens`, which end for no other reason.
v1::GenerateRequest FewShot(const std::string& prompt, int branches, int max_new_tokens);

}  // namespace espalier::test
