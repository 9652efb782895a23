#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/server/test_server.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

const std::vector<std::string>& Methods() {
  static const std::vector<std::string> kMethods = {
      "/espalier.v1.TreeService/Generate",         "/espalier.v1.TreeService/Score",
      "/espalier.v1.ModelService/GetModel",        "/espalier.v1.ModelService/Tokenize",
      "/espalier.v1.ModelService/Detokenize",      "/espalier.v1.AdminService/GetStats",
      "/espalier.v1.AdminService/GetTreeSnapshot", "/espalier.v1.AdminService/FlushCache"};
  return kMethods;
}

const std::shared_ptr<grpc::Channel>& ChannelOf(const TestServer& server, const std::string& method) {
  const bool is_admin = method.find("AdminService") != std::string::npos;
  return is_admin ? server.admin_channel() : server.channel();
}

TEST_CASE("bytes that are no message are INVALID_ARGUMENT to every method") {
  TestServer server;
  for (const std::string& method : Methods()) {
    INFO(method);
    const grpc::Status status = SendRaw(ChannelOf(server, method), method, std::string("\x0a\x7f", 2));
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status.error_message().rfind("the request is not an encoded espalier.v1.", 0) == 0);
    // Large ones go another way: unknown fields, more than anyone may send.
    std::string many;
    for (int i = 0; i < (1 << 20) + 1; ++i) many += std::string("\xf8\x07\x00", 3);
    const grpc::Status refused = SendRaw(ChannelOf(server, method), method, many);
    CHECK(refused.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_CASE("an unknown field of a newer client is passed over by every unary method") {
  TestServer server;
  for (const char* method : {"ModelService/GetModel", "AdminService/GetStats", "AdminService/FlushCache"}) {
    const std::string bytes("\xf8\x07\x01", 3);
    CHECK(SendRaw(ChannelOf(server, method), std::string("/espalier.v1.") + method, bytes).ok());
  }
}

TEST_CASE("Tokenize and Detokenize refuse by size what they would take long over") {
  TestServer server;
  v1::TokenizeRequest text;
  text.set_text(std::string((1 << 20) + 1, 'a'));
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  grpc::Status status = server.models().Tokenize(&first, text, &tokens);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message() == "text: must have at most 1048576 bytes, has 1048577");

  v1::DetokenizeRequest ids;
  for (int i = 0; i <= 1 << 20; ++i) ids.add_token_ids(5);
  v1::DetokenizeResponse pieces;
  grpc::ClientContext second;
  status = server.models().Detokenize(&second, ids, &pieces);
  CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  CHECK(status.error_message() == "token_ids: must be at most 1048576, has more");
}

TEST_CASE("compressed messages are served, however they are compressed and whichever method they are for") {
  TestServer server;
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    const std::string prompt(600, 'a');
    v1::GenerateRequest request = FewShot(prompt, 2, 4);
    request.mutable_nodes(0)->mutable_given()->set_text("the quick brown fox " + std::string(300, ' '));
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    const auto reader = server.trees().Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) continue;
    CHECK(reader->Finish().ok());

    v1::TokenizeRequest text;
    text.set_text(std::string(100'000, 'a'));
    grpc::ClientContext tokenize;
    tokenize.set_compression_algorithm(algorithm);
    v1::TokenizeResponse tokens;
    CHECK(server.models().Tokenize(&tokenize, text, &tokens).ok());
    CHECK(tokens.token_ids_size() > 0);
  }
}

TEST_CASE("a message that inflates to more than may be sent is RESOURCE_EXHAUSTED") {
  TestServer server;
  grpc::ChannelArguments arguments;
  arguments.SetCompressionAlgorithm(GRPC_COMPRESS_GZIP);
  arguments.SetMaxSendMessageSize(-1);
  const auto channel = server.NewChannel(arguments);
  // An unknown field of 70 MB.
  const std::string bomb = std::string("\xfa\x07\x80\x80\xc0\x21", 6) + std::string(70 << 20, '\0');
  const grpc::Status status = SendRaw(channel, "/espalier.v1.ModelService/GetModel", bomb);
  CHECK(status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(status.error_message() == "the message has more than 67108864 bytes when inflated");
  CHECK(IsServing(server.channel()));
}

TEST_CASE("who cancels while a text is encoded is let go, and leaves nothing behind") {
  TestServer server;
  v1::GenerateRequest request = FewShot("a prompt", 1, 1);
  for (int i = 0; i < 400; ++i) {
    v1::TreeNode& node = *request.add_nodes();
    node.set_id(std::to_string(i));
    node.set_parent_id("prompt");
    node.mutable_given()->set_text(std::string(400, 'a'));
  }
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(i));
    const auto reader = server.trees().Generate(&context, request);
    if (i % 2 == 0) context.TryCancel();
    v1::GenerateResponse response;
    while (reader->Read(&response)) continue;
    CHECK_FALSE(reader->Finish().ok());
  }
  server.WaitUntilIdle();
}

}  // namespace
}  // namespace espalier::test
