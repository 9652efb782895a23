#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "tests/bench/command.h"
#include "tests/bench/decode_options.h"

namespace espalier::bench {

// A command that runs a random Llama: the flags of its shape and of where it runs.
class ModelCommand : public Command {
 protected:
  using Command::Command;

  // Flags of the model's shape first, of its place and of the run last; a command's own stand between them.
  void AddShapeFlags(ModelOptions* model);
  void AddRunFlags(ModelOptions* model);
  // Reads both. Every mistake is reported to `reader`.
  void ReadModel(FlagReader* reader, ModelOptions* model) const;
  std::vector<AttentionMode> ReadModes(FlagReader* reader) const { return reader->Modes("modes", modes_); }
  // A problem where weights and KV pool do not fit into the memory that is free.
  static void CheckMemory(FlagReader* reader, const ModelOptions& model, int64_t bytes);

 private:
  std::string heads_ = "32/8";
  std::string modes_ = "flatten,sequence";
  std::string dtype_ = "bfloat16";
};

}  // namespace espalier::bench
