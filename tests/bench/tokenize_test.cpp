#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/base/result.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "tests/bench/program.h"
#include "tests/bench/tokenize_texts.h"
#include "tests/support/catch.h"

namespace espalier::bench {
namespace {

using TestJson = nlohmann::json;
using test::Outcome;
using test::Run;
using test::RunJson;

std::string SmallTokenizer() {
  return std::string(ESPALIER_SOURCE_DIR) + "/tests/model/tokenizer/data/byte_level/tokenizer.json";
}

TEST_CASE("texts are valid UTF-8 of the length asked for, and begin alike whatever their length") {
  for (const std::string& kind : TextKinds()) {
    CAPTURE(kind);
    const std::string longest = MakeText(kind, 5000);
    for (const size_t bytes : {4u, 100u, 101u, 102u, 103u, 4999u, 5000u}) {
      const std::string text = MakeText(kind, bytes);
      CHECK(text.size() <= bytes);
      CHECK(text.size() + 3 >= bytes);
      CHECK(FindInvalidUtf8(text) == std::string_view::npos);
      CHECK(longest.starts_with(text));
    }
  }
  CHECK(MakeText("run", 5000).find_first_of(" \n\t") == std::string::npos);
}

TEST_CASE("tokenize reports the bytes and tokens of every text, and keeps the texts") {
  const auto folder = std::filesystem::temp_directory_path() / "espalier_tokenize_test";
  std::filesystem::create_directories(folder);
  const TestJson report =
      RunJson("tokenize --tokenizer " + SmallTokenizer() +
              " --sizes 100,2000 --repeats 2 --least-ms 0 --keep-texts " + folder.string());
  const TestJson& rows = report.at("rows");
  REQUIRE(rows.size() == 2 * TextKinds().size());
  const auto tokenizer = LoadTokenizer(SmallTokenizer());
  REQUIRE(tokenizer.ok());
  for (const TestJson& row : rows) {
    CAPTURE(row.dump());
    const auto bytes = row.at("bytes").get<size_t>();
    const std::string text = MakeText(row.at("kind"), bytes);
    const auto ids = (*tokenizer)->Encode(text);
    REQUIRE(ids.ok());
    CHECK(row.at("tokens") == ids->size());
    CHECK(row.at("ids_fnv1a").get<std::string>().size() == 16);
    const double us = row.at("encode_us");
    CHECK(us > 0.0);
    CHECK(row.at("mb_per_s").get<double>() == Approx(static_cast<double>(bytes) / us).epsilon(0.05));
    std::ifstream kept(folder / (row.at("kind").get<std::string>() + "-" + std::to_string(bytes) + ".txt"),
                       std::ios::binary);
    CHECK(std::string(std::istreambuf_iterator<char>(kept), {}) == text);
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("tokenize names the flag at fault") {
  const struct {
    std::string arguments;
    std::string message;
  } cases[] = {
      {"", "--tokenizer: is missing"},
      {"--tokenizer /nowhere/tokenizer.json", "--tokenizer: /nowhere/tokenizer.json"},
      {"--tokenizer " + SmallTokenizer() + " --text /nowhere/text", "--text: '/nowhere/text' cannot be read"},
      {"--tokenizer " + SmallTokenizer() + " --kinds words,prose", "--kinds: "},
      {"--tokenizer " + SmallTokenizer() + " --sizes 1", "--sizes: "},
      {"--tokenizer " + SmallTokenizer() + " --text /etc/hostname --sizes 100", "--sizes: goes with"},
      {"--tokenizer " + SmallTokenizer() + " --sizes 100 --keep-texts /nowhere", "--keep-texts: '/nowhere"},
  };
  for (const auto& one : cases) {
    const Outcome outcome = Run("tokenize " + one.arguments);
    CAPTURE(one.arguments, outcome.err);
    CHECK(outcome.exit_code == 2);
    CHECK(outcome.err.find("error: " + one.message) != std::string::npos);
    CHECK(outcome.out.empty());
  }
}

}  // namespace
}  // namespace espalier::bench
