#include "server/wire.h"

#include <string>

#include "espalier/v1/tree.pb.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

Status Parse(grpc::ByteBuffer bytes, v1::GenerateRequest& message) {
  return ParseMessage(bytes, MessageLimits(), message);
}

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

// The wire form of a request whose second node has this text, with the text replaced after encoding.
std::string EncodedWithText(const std::string& valid, const std::string& replacement) {
  v1::GenerateRequest request;
  request.add_nodes()->set_id("a");
  request.add_nodes()->mutable_given()->set_text(valid);
  std::string encoded = request.SerializeAsString();
  encoded.replace(encoded.find(valid), valid.size(), replacement);
  return encoded;
}

TEST_CASE("a message survives the wire") {
  v1::GenerateRequest request;
  request.add_nodes()->mutable_given()->set_text("grüße");
  v1::GenerateRequest parsed;
  REQUIRE(Parse(SerializeMessage(request), parsed).ok());
  CHECK(parsed.nodes(0).given().text() == "grüße");
}

TEST_CASE("text that is not UTF-8 is named by its field") {
  v1::GenerateRequest parsed;
  const Status status = Parse(ToBuffer(EncodedWithText("ab", "\xff\xfe")), parsed);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kInvalidArgument);
  CHECK(status.error().field == "nodes[1].given.text");
}

TEST_CASE("bytes that are no message are refused without a field") {
  v1::GenerateRequest parsed;
  for (const std::string& bytes :
       {std::string("\x0a\xff"), std::string("\x0a\x05x"), std::string(100, '\x0b')}) {
    const Status status = Parse(ToBuffer(bytes), parsed);
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kInvalidArgument);
    CHECK(status.error().message.find("espalier.v1.GenerateRequest") != std::string::npos);
  }
}

TEST_CASE("error codes map to the gRPC codes of the same name") {
  CHECK(ToStatus({ErrorCode::kResourceExhausted, "", "full"}).error_code() ==
        grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(ToStatus(InvalidArgument("seed", "odd")).error_message() == "seed: odd");
}

}  // namespace
}  // namespace espalier
