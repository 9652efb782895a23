// The scheduler's behaviour as text: tests/engine/transcripts/*.txt. Each file holds commands and what they
// print with one and with two steps in flight. With ESPALIER_REWRITE_TRANSCRIPTS=1 the outputs are written
// anew: read the difference before it is committed.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/transcript.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier {
namespace {

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::filesystem::path> Files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(test::SourceDir() / "tests" / "engine" / "transcripts")) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST_CASE("the scheduler does what the transcripts say") {
  const char* rewrite = std::getenv("ESPALIER_REWRITE_TRANSCRIPTS");
  const std::vector<std::filesystem::path> files = Files();
  REQUIRE(files.size() >= 10);
  for (const std::filesystem::path& file : files) {
    CAPTURE(file.filename().string());
    std::vector<test::TranscriptBlock> blocks = test::ParseTranscript(ReadFile(file));
    REQUIRE_FALSE(blocks.empty());
    for (int32_t in_flight = 1; in_flight <= 2; ++in_flight) {
      test::TranscriptRunner runner(in_flight);
      for (test::TranscriptBlock& block : blocks) {
        const std::string output = runner.Execute(block.command);
        std::string& stored = block.output[in_flight - 1];
        CAPTURE(block.command.front(), in_flight);
        CHECK(output.find("PROBLEM") == std::string::npos);
        CHECK(output.find("NOT as the oracle") == std::string::npos);
        if (rewrite == nullptr) CHECK(output == stored);
        stored = output;
      }
    }
    if (rewrite != nullptr) std::ofstream(file, std::ios::binary) << test::FormatTranscript(blocks);
  }
}

TEST_CASE("a transcript is read and written without loss") {
  const std::string text =
      "# What this shows.\n\nrun\n  with more\n----\nsame\n\nstep 2\n---- one step in flight\na\n"
      "---- two steps in flight\nb\n";
  CHECK(test::FormatTranscript(test::ParseTranscript(text)) == text);
}

}  // namespace
}  // namespace espalier
