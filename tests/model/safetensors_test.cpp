// The header of a safetensors file: whatever it says, no tensor lies outside the file.
#include <cstdio>
#include <random>

#include "model/safetensors.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"

namespace espalier::test {
namespace {

std::string HeaderRefusal(const std::string& header, const std::string& data) {
  const std::string bytes = SafetensorsWithHeader(header, data);
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(bytes)), bytes.size(), "x.safetensors");
  if (file.ok()) return "accepted";
  CHECK(file.error().field == "x.safetensors");
  return file.error().message;
}

TEST_CASE("lying safetensors headers are refused") {
  const std::string data(16, 'x');
  const auto tensor = [&](const char* dtype, const char* shape, const char* offsets) {
    return HeaderRefusal(std::string("{\"t\": {\"dtype\": ") + dtype + ", \"shape\": " + shape +
                             ", \"data_offsets\": " + offsets + "}}",
                         data);
  };
  CHECK(tensor("\"F32\"", "[2, 2]", "[0, 16]") == "accepted");
  CHECK(tensor("\"F32\"", "[4]", "[0, 16]") == "accepted");
  CHECK(tensor("\"Q4\"", "[4]", "[0, 16]") == "tensor t: unknown dtype Q4");
  CHECK(tensor("7", "[4]", "[0, 16]") == "tensor t: dtype must be a string");
  for (const char* shape :
       {"[-4]", "[4.0]", "\"4\"", "[\"4\"]", "{}", "null", "[18446744073709551616]", "[1e1]"}) {
    CHECK(tensor("\"F32\"", shape, "[0, 16]") == "tensor t: shape must be a list of non-negative integers");
  }
  for (const char* offsets :
       {"[0]", "[0, 16, 16]", "[-1, 16]", "[0, 1.6e1]", "16", "[0, 18446744073709551615]"}) {
    CHECK(tensor("\"F32\"", "[4]", offsets) == "tensor t: data_offsets must be two non-negative integers");
  }
  // 2^62 * 4 elements * 4 bytes wrap around to 0 and to 16 modulo 2^64.
  CHECK(tensor("\"F32\"", "[4611686018427387904, 4]", "[0, 0]") == "tensor t: shape overflows");
  CHECK(tensor("\"F32\"", "[4611686018427387908]", "[0, 16]") == "tensor t: shape overflows");
  CHECK(tensor("\"F32\"", "[5]", "[0, 16]") ==
        "tensor t: has 16 bytes of data where dtype and shape need 20");
  CHECK(tensor("\"F32\"", "[4]", "[16, 0]") == "tensor t: data_offsets end before they begin");
  CHECK(tensor("\"F32\"", "[4]", "[16, 32]").find("tensor t: data_offsets end at byte 32 of 16 bytes") == 0);
  CHECK(tensor("\"F32\"", "[2]", "[8, 16]") == "tensor t: data begins after a gap");
  CHECK(tensor("\"F32\"", "[2]", "[0, 8]") == "8 bytes of data belong to no tensor");
}

TEST_CASE("repeated, overlapping and malformed members of a header are refused") {
  const std::string data(16, 'x');
  const std::string whole = R"({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})";
  const std::string half = R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})";
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"a\": " + whole + "}", data) == "header: key a appears twice");
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"b\": " + whole + "}", data) ==
        "tensor b: data overlaps that of another tensor");
  CHECK(HeaderRefusal("{\"a\": " + whole + ", \"b\": " + half + "}", data) ==
        "tensor a: data overlaps that of another tensor");
  CHECK(HeaderRefusal("{\"a\": [1]}", data) == "tensor a: must be an object");
  CHECK(HeaderRefusal(R"({"a": {"dtype": "F32", "dtype": "F16"}})", data) ==
        "header: key dtype appears twice");
  CHECK(HeaderRefusal(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "x": 1}})", data) ==
        "tensor a: has an unknown member x");
  CHECK(HeaderRefusal("[]", data) == "header: must hold a JSON object");
  CHECK(HeaderRefusal("", data).find("header: is not valid JSON") == 0);
  CHECK(HeaderRefusal(whole + "   ", data).find("tensor ") == 0);
  const std::string sound = "{\"a\": " + whole + "}";
  CHECK(HeaderRefusal(sound + " \n", data) == "accepted");
  CHECK(HeaderRefusal(sound + std::string(3, '\0'), data).find("header: is not valid JSON: a NUL byte") == 0);
  CHECK(HeaderRefusal(sound + "{}", data).find("header: is not valid JSON") == 0);
  CHECK(HeaderRefusal("\xef\xbb\xbf" + sound, data) == "header: is not valid JSON");

  std::string huge = SafetensorsWithHeader("{}", "");
  huge[7] = '\x7f';
  const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(huge)), huge.size(), "x.safetensors");
  REQUIRE(!file.ok());
  CHECK(file.error().message.find("header of 9151314442816847874 bytes in a file of 10") == 0);
}

TEST_CASE("random damage to a safetensors file is refused or leaves every tensor inside the file") {
  const uint32_t seed = std::random_device{}();
  INFO("seed " << seed);
  std::printf("safetensors damage: seed %u\n", seed);
  std::mt19937 random(seed);
  const std::string valid = Safetensors({{"a", {"F32", {2, 3}, std::string(24, 'a')}},
                                         {"b", {"BF16", {5}, std::string(10, 'b')}},
                                         {"c", {"I64", {}, std::string(8, 'c')}}});
  const size_t header_end = valid.size() - 42;
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = valid;
    for (uint32_t edit = 0; edit <= random() % 3; ++edit) {
      const size_t at = random() % 10 == 0 ? random() % 8 : 8 + random() % (header_end - 8);
      bytes[at] = static_cast<char>(random() % 3 == 0 ? random() % 256 : '0' + random() % 10);
    }
    if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 1));
    // A buffer of its own size, so that AddressSanitizer sees a read past its end.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const auto file = SafetensorsFile::Parse(std::as_bytes(std::span(exact)), exact.size(), "x");
    if (!file.ok()) {
      CHECK(file.error().message.find('\n') == std::string::npos);
      continue;
    }
    ++accepted;
    for (const auto& [name, entry] : file->tensors()) {
      CHECK(entry.offset <= exact.size());
      CHECK(entry.bytes <= exact.size() - entry.offset);
    }
  }
  CHECK(accepted > 0);
}

}  // namespace
}  // namespace espalier::test
