#include "server/message_limits.h"

#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <zlib.h>

#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "espalier/v1/model.pb.h"
#include "espalier/v1/tree.pb.h"
#include "server/request_limits.h"
#include "server/wire.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

// In slices of at most `size` bytes, as they come from a network.
grpc::ByteBuffer ToBuffer(const std::string& bytes, size_t size) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += size) slices.emplace_back(bytes.substr(i, size));
  return {slices.data(), slices.size()};
}

// Marks a message as compressed, as gRPC does to what it leaves as it is.
class CompressionMark : private grpc::ProtoBufferReader {
 public:
  CompressionMark(grpc::ByteBuffer& bytes, grpc_compression_algorithm algorithm) : ProtoBufferReader(&bytes) {
    reader()->buffer_in->data.raw.compression = algorithm;
  }
};

enum class Form { kGzip = 15 + 16, kZlib = 15 };

std::string Deflated(const std::string& content, Form form) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, static_cast<int>(form), 9, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

MessageLimits TreeLimits() {
  MessageLimits limits;
  using v1::GenerateRequest, v1::Given, v1::Sampling, v1::TokenIds;
  limits.SetMaxCount(GenerateRequest::descriptor()->FindFieldByNumber(GenerateRequest::kNodesFieldNumber), 8);
  limits.SetMaxCount(TokenIds::descriptor()->FindFieldByNumber(TokenIds::kIdsFieldNumber), 100);
  limits.SetMaxCount(Sampling::descriptor()->FindFieldByNumber(Sampling::kLogitBiasFieldNumber), 4);
  limits.SetMaxBytes(Given::descriptor()->FindFieldByNumber(Given::kTextFieldNumber), 1000);
  return limits;
}

std::string ErrorOf(const std::string& encoded, const MessageLimits& limits = TreeLimits()) {
  grpc::ByteBuffer bytes = ToBuffer(encoded);
  v1::GenerateRequest message;
  const Status status = ParseMessage(bytes, limits, message);
  return status.ok() ? "" : status.error().ToString();
}

google::protobuf::UnknownFieldSet& Unknown(google::protobuf::Message& message) {
  return *message.GetReflection()->MutableUnknownFields(&message);
}

std::string Repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

TEST_CASE("fields that hold too much are named before anything is parsed") {
  v1::GenerateRequest message;
  for (int i = 0; i < 8; ++i) message.add_nodes();
  CHECK(ErrorOf(message.SerializeAsString()).empty());
  message.add_nodes();
  CHECK(ErrorOf(message.SerializeAsString()) == "nodes: must be at most 8, has more");

  message.Clear();
  message.add_nodes();
  auto& sampling = *message.add_nodes()->mutable_generate()->mutable_sampling();
  for (int i = 0; i < 5; ++i) sampling.add_logit_bias();
  CHECK(ErrorOf(message.SerializeAsString()) ==
        "nodes[1].generate.sampling.logit_bias: must be at most 4, has more");

  message.Clear();
  message.add_nodes()->mutable_given()->set_text(std::string(1000, 'x'));
  CHECK(ErrorOf(message.SerializeAsString()).empty());
  message.mutable_nodes(0)->mutable_given()->set_text(std::string(1001, 'x'));
  CHECK(ErrorOf(message.SerializeAsString()) ==
        "nodes[0].given.text: must have at most 1000 bytes, has 1001");
}

TEST_CASE("numbers are counted packed, one by one, and in several runs") {
  v1::GenerateRequest message;
  auto& ids = *message.add_nodes()->mutable_given()->mutable_token_ids();
  for (int i = 0; i < 100; ++i) ids.add_ids(70000 * i);
  CHECK(ErrorOf(message.SerializeAsString()).empty());
  ids.add_ids(1);
  CHECK(ErrorOf(message.SerializeAsString()) ==
        "nodes[0].given.token_ids.ids: must be at most 100, has more");

  const auto nodes_with_ids = [](const std::string& encoded_ids) {
    v1::GenerateRequest outer;
    v1::TokenIds inner;
    REQUIRE(inner.ParseFromString(encoded_ids));
    const auto field = [](int number, const std::string& content) {
      std::string head(1, static_cast<char>(number << 3 | 2));
      for (size_t n = content.size(); true; n >>= 7) {
        head += static_cast<char>(n & 127 | (n > 127 ? 128 : 0));
        if (n <= 127) break;
      }
      return head + content;
    };
    return field(1, field(3, field(2, encoded_ids)));
  };
  CHECK(ErrorOf(nodes_with_ids(Repeat("\x08\x07", 100))).empty());
  CHECK_FALSE(ErrorOf(nodes_with_ids(Repeat("\x08\x07", 101))).empty());
  CHECK(ErrorOf(nodes_with_ids(Repeat("\x0a\x02\x05\x06", 50))).empty());
  CHECK_FALSE(ErrorOf(nodes_with_ids(Repeat("\x0a\x02\x05\x06", 51))).empty());
}

TEST_CASE("what is unknown counts too, groups and wrong types included") {
  const MessageLimits none;
  constexpr int kMany = MessageLimits::kMaxElements;
  for (const char* element : {"\xf8\x07\x01", "\xfa\x07", "\xfb\x07\xfc\x07", "\x18", "\x0a"}) {
    std::string one = element;
    if (one == "\xfa\x07" || one == "\x0a") one += '\0';     // an empty string, an empty node
    if (one == "\x18") one = "\x1d" + std::string(4, '\0');  // cache_bypass, as fixed32
    CHECK(ErrorOf(Repeat(one, 1000), none).empty());
    CHECK(ErrorOf(Repeat(one, kMany + 1), none).find("more than 1048576 strings and messages") !=
          std::string::npos);
  }
}

TEST_CASE("depth is limited where the parser limits it") {
  for (const int depth : {50, 99, 100, 101, 102, 5000}) {
    const std::string groups = Repeat("\xfb\x07", depth) + Repeat("\xfc\x07", depth);
    v1::GenerateRequest parsed;
    CHECK(ErrorOf(groups).empty() == parsed.ParseFromString(groups));
  }
}

TEST_CASE("an empty node each two bytes is refused for its number, in a few slices or many") {
  const std::string encoded = Repeat(std::string("\x0a\x00", 2), 1 << 20);
  for (const size_t slice : {size_t{1000}, encoded.size()}) {
    grpc::ByteBuffer bytes = ToBuffer(encoded, slice);
    v1::GenerateRequest message;
    const Status status = ParseMessage(bytes, TreeLimits(), message);
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().field == "nodes");
    CHECK(message.nodes_size() == 0);
  }
}

TEST_CASE("a compressed message is inflated, up to the limit of messages") {
  v1::TokenizeRequest message;
  for (int i = 0; i < 50'000; ++i) message.mutable_text()->append(std::to_string(i));
  for (const auto& [form, algorithm] :
       {std::pair(Form::kGzip, GRPC_COMPRESS_GZIP), std::pair(Form::kZlib, GRPC_COMPRESS_DEFLATE)}) {
    const std::string compressed = Deflated(message.SerializeAsString(), form);
    grpc::ByteBuffer bytes = ToBuffer(compressed, 4000);
    CompressionMark(bytes, algorithm);
    REQUIRE(IsCompressed(bytes));
    v1::TokenizeRequest parsed;
    REQUIRE(ParseMessage(bytes, MessageLimits(), parsed).ok());
    CHECK(parsed.text() == message.text());

    for (const std::string& damaged :
         {compressed.substr(0, compressed.size() / 2), compressed.substr(0, compressed.size() - 1),
          compressed + "x", "x" + compressed, std::string()}) {
      grpc::ByteBuffer wrong = ToBuffer(damaged, 4000);
      CompressionMark(wrong, algorithm);
      const Status status = ParseMessage(wrong, MessageLimits(), parsed);
      REQUIRE_FALSE(status.ok());
      CHECK(status.error().ToString() == "the compressed message is damaged");
    }
  }
  // 70 MB of zeros, and of an unknown field.
  v1::TokenizeRequest large;
  Unknown(large).AddLengthDelimited(100)->resize(70 << 20);
  grpc::ByteBuffer bomb = ToBuffer(Deflated(large.SerializeAsString(), Form::kGzip));
  CompressionMark(bomb, GRPC_COMPRESS_GZIP);
  v1::TokenizeRequest parsed;
  const Status status = ParseMessage(bomb, MessageLimits(), parsed);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kResourceExhausted);
  CHECK(status.error().message == "the message has more than 67108864 bytes when inflated");
}

// A request with something of everything.
std::string SampleRequest(std::mt19937& random) {
  v1::GenerateRequest message;
  const auto number = [&](uint32_t below) { return static_cast<int>(random() % below); };
  const int nodes = 1 + number(4);
  for (int i = 0; i < nodes; ++i) {
    v1::TreeNode& node = *message.add_nodes();
    node.set_id("n" + std::to_string(i));
    switch (number(4)) {
      case 0:
        node.mutable_given()->set_text("grüße " + std::string(static_cast<size_t>(number(40)), 'y'));
        break;
      case 1:
        for (int k = number(20); k > 0; --k)
          node.mutable_given()->mutable_token_ids()->add_ids(number(1 << 20) - 5);
        break;
      case 2: {
        v1::Generate& generate = *node.mutable_generate();
        generate.set_branches(number(10));
        for (int k = number(3); k > 0; --k) generate.add_stop_strings("stop");
        for (int k = number(3); k > 0; --k) generate.add_stop_token_ids(k);
        for (int k = number(3); k > 0; --k) generate.mutable_sampling()->add_logit_bias()->set_bias(1.5F);
        generate.mutable_sampling()->set_temperature(0.5F);
        break;
      }
      default:
        node.mutable_select()->set_keep(number(5));
    }
  }
  if (number(2) == 0) message.set_seed(random());
  if (number(3) == 0) {
    Unknown(message).AddVarint(200, random());
    Unknown(message).AddGroup(201)->AddLengthDelimited(202, "inner");
    Unknown(message).AddFixed64(203, random());
  }
  return message.SerializeAsString();
}

std::string Mutated(std::string bytes, std::mt19937& random) {
  for (int changes = static_cast<int>(random() % 4); changes > 0 && !bytes.empty(); --changes) {
    const size_t at = random() % bytes.size();
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 2:
        bytes.insert(at, 1, static_cast<char>(random()));
        break;
      case 3:
        bytes.erase(at, 1 + random() % 3);
        break;
      case 4:
        bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 30));
        break;
      default:
        bytes.resize(at);
    }
  }
  return bytes;
}

TEST_CASE("without a limit at fault, messages are accepted just as the parser accepts them") {
  const auto seed = std::random_device()();
  std::printf("seed %u\n", seed);
  google::protobuf::LogSilencer without_a_line_for_each;
  INFO("seed " << seed);
  std::mt19937 random(seed);
  int accepted = 0;
  constexpr int kMessages = 40'000;
  for (int i = 0; i < kMessages; ++i) {
    const std::string encoded = Mutated(SampleRequest(random), random);
    v1::GenerateRequest expected;
    const bool parses = expected.ParseFromString(encoded);
    grpc::ByteBuffer bytes = ToBuffer(encoded, 1 + random() % 64);
    v1::GenerateRequest parsed;
    const Status status = ParseMessage(bytes, MessageLimits(), parsed);
    if (status.ok() != parses) {
      INFO("bytes of message " << i);
      FAIL((status.ok() ? "accepted" : status.error().ToString()));
    }
    accepted += parses ? 1 : 0;
    if (parses && parsed.SerializeAsString() != expected.SerializeAsString()) FAIL("differs, message " << i);
  }
  CHECK(accepted > kMessages / 10);
  CHECK(accepted < kMessages);
}

}  // namespace
}  // namespace espalier
