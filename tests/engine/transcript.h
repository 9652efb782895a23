#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/fakes/scheduler_harness.h"

namespace espalier::test {

// One command of a transcript file and what it printed. The file is a list of:
//
//   # comments
//   command arguments
//     further lines of the command, indented
//   ---- one step in flight
//   output
//   ---- two steps in flight
//   output
//   (blank line)
//
// "----" alone: the same output in both cases.
struct TranscriptBlock {
  std::string comments;              // lines before the command, with their line ends
  std::vector<std::string> command;  // lines
  std::string output[2];             // with one and with two steps in flight
};

std::vector<TranscriptBlock> ParseTranscript(const std::string& text);
std::string FormatTranscript(const std::vector<TranscriptBlock>& blocks);

// Executes commands on a scheduler with a fake device:
//   pool blocks=N block_tokens=N [max_rows=N] [chunk=N]   first of all
//   submit NAME [seed=N] [bypass] [namespace=X] [peer=X]  node lines follow, parents first:
//     ID given TOKENS [under=ID] [score]                  TOKENS: 3,4,5 or 10..19
//     ID generate under=ID [branches=N] [max=N] [temperature=X] [ignore_eos]
//     ID select under=ID keep=N [score=sum|mean|latest|verdicts] [scope=level|siblings]
//   cancel NAME | flush | step [N] | run | tree
//   answer NAME                                           all branches, and the oracle's opinion
class TranscriptRunner {
 public:
  explicit TranscriptRunner(int32_t steps_in_flight) : steps_in_flight_(steps_in_flight) {}

  std::string Execute(const std::vector<std::string>& command);

 private:
  using Arguments = std::map<std::string, std::string>;

  void Pool(const Arguments& arguments);
  void Submit(const std::string& name, const Arguments& arguments, const std::vector<std::string>& lines);
  void Step();
  void PrintStep(const StepInput& step);
  void PrintEvents();
  void PrintEvent(const TreeEvent& event);
  void PrintBlocks();
  void PrintTree();
  void PrintAnswer(const std::string& name);

  const int32_t steps_in_flight_;
  std::unique_ptr<SchedulerHarness> harness_;
  std::map<std::string, uint64_t> ids_;
  std::map<uint64_t, std::string> names_;
  std::string out_;
};

}  // namespace espalier::test
