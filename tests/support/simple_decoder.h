#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/result.h"
#include "model/model_runner.h"

namespace espalier::test {

// Drives a ModelRunner without the engine: independent sequences, each a tree of one node, blocks handed out
// one after another from the runner's pool. Not for use together with another user of the runner.
class SimpleDecoder {
 public:
  // Which rows' logits a piece asks for.
  enum class Logits { kNone, kLast, kAll };

  // The next `rows` tokens of a sequence that are not computed yet.
  struct Piece {
    int32_t sequence = 0;
    int32_t rows = 0;
    Logits logits = Logits::kLast;
  };

  explicit SimpleDecoder(ModelRunner& runner) : runner_(runner) {}

  // Computes nothing yet. Returns the sequence's number: 0, 1, ...
  int32_t AddSequence(std::vector<int32_t> tokens);
  void Append(int32_t sequence, int32_t token) { At(sequence).tokens.push_back(token); }
  const std::vector<int32_t>& tokens(int32_t sequence) { return At(sequence).tokens; }
  int32_t Pending(int32_t sequence);  // tokens not computed yet
  // Forgets all sequences; their blocks are used again.
  void Clear();

  // One step over the pieces, at most one for each sequence. The result holds the logits in the order of the
  // pieces, and for each piece a greedy sample of its last row.
  Result<StepResult> Step(std::span<const Piece> pieces);

  // Logits [tokens, vocab] of one sequence, computed in chunks of at most `chunk` tokens. Clears first.
  Result<std::vector<float>> AllLogits(const std::vector<int32_t>& tokens, int32_t chunk);

  // Greedy continuations of all prompts together, in steps of at most `max_rows` rows. Clears first.
  Result<std::vector<std::vector<int32_t>>> Greedy(const std::vector<std::vector<int32_t>>& prompts,
                                                   int32_t new_tokens, int32_t max_rows);

 private:
  struct Sequence {
    std::vector<int32_t> tokens;
    std::vector<int32_t> blocks;
    int32_t computed = 0;
  };

  Sequence& At(int32_t sequence) { return sequences_[static_cast<size_t>(sequence)]; }
  void AddPiece(const Piece& piece, StepInput& step);

  ModelRunner& runner_;
  std::vector<Sequence> sequences_;
  int32_t next_block_ = 0;
  uint64_t next_step_ = 1;
};

}  // namespace espalier::test
