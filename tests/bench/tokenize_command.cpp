#include <memory>
#include <sstream>
#include <string>

#include "model/tokenizer/tokenizer.h"
#include "tests/bench/command.h"
#include "tests/bench/tokenize.h"
#include "tests/bench/tokenize_texts.h"

namespace espalier::bench {
namespace {

class TokenizeCommand final : public Command {
 public:
  explicit TokenizeCommand(CLI::App* program);

  void Read(FlagReader* reader) override;
  Result<Report> Run() override { return RunTokenize(options_); }

 private:
  TokenizeOptions options_;
  std::string kinds_ = "all";
  std::string sizes_ = "1024,16384,262144,1048576,4194304";
};

TokenizeCommand::TokenizeCommand(CLI::App* program)
    : Command(program, "tokenize", "Encodes texts of many kinds and sizes") {
  Add("--tokenizer", options_.tokenizer, "Folder of a model, tokenizer.json or tokenizer.model");
  Add("--text", options_.text, "File to encode instead of texts of our own");
  Add("--kinds", kinds_, "Kinds of text: words, digits, spaces, run, scripts; or all");
  Add("--sizes", sizes_, "Bytes of each kind of text");
  Add("--keep-texts", options_.keep_texts, "Folder that gets every text as KIND-BYTES.txt");
  Add("--repeats", options_.repeats, "Measurements of each text, of which the median counts");
  Add("--least-ms", options_.least_ms, "How long a measurement encodes the same text, in milliseconds");
  AddOutputFlags();
}

void TokenizeCommand::Read(FlagReader* reader) {
  if (options_.tokenizer.empty()) reader->Fail("tokenizer", "is missing");
  reader->CheckRange("repeats", options_.repeats, 1, 1000);
  if (!(options_.least_ms >= 0.0 && options_.least_ms <= 60000.0))
    reader->Fail("least-ms", "must be in [0, 60000]");
  if (!options_.text.empty()) {
    for (const char* flag : {"kinds", "sizes"}) {
      if (Given(std::string("--") + flag)) reader->Fail(flag, "goes with texts of our own, not with --text");
    }
    return;
  }
  options_.sizes_bytes = reader->Integers("sizes", sizes_, 4, Tokenizer::kMaxTextBytes);
  options_.kinds = TextKinds();
  if (kinds_ == "all") return;
  options_.kinds.clear();
  std::istringstream names(kinds_);
  for (std::string name; std::getline(names, name, ',');) {
    reader->CheckOneOf("kinds", name, TextKinds());
    options_.kinds.push_back(name);
  }
  if (options_.kinds.empty()) reader->Fail("kinds", "is empty");
}

}  // namespace

std::unique_ptr<Command> MakeTokenizeCommand(CLI::App* program) {
  return std::make_unique<TokenizeCommand>(program);
}

}  // namespace espalier::bench
