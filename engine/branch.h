#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/branch_text.h"
#include "engine/tree_event.h"
#include "engine/tree_request.h"

namespace espalier {

// A part of the answer. Written by BranchForest alone. What computes its tokens is a Sequence.
struct Branch {
  int32_t number = 0;
  int32_t parent = -1;   // branch; -1 for the root
  int32_t node = 0;      // the template that it is an instance of
  bool given = false;    // the client has given its tokens
  int32_t siblings = 0;  // see SelectCandidate::group
  uint64_t stream = 0;
  int32_t start_position = 0;   // of its first token
  std::vector<int32_t> tokens;  // of this branch alone; known ones
  std::vector<float> logprobs;  // [tokens] once they are known, if TreeRequest::return_logprobs
  std::string text;
  BranchText decoder;
  FinishReason reason = FinishReason::kNone;
  bool finished = false;  // its tokens, and scores if asked for, are complete
  bool dead = false;      // no room on its path, or an error: what is below it has no tokens
  bool pruned = false;    // by a selection at its node
  int32_t children = 0;   // branches
  // Sum and number of generated tokens along the path from the root, this branch included.
  double sum_logprob = 0.0;
  int64_t generated_tokens = 0;
  bool scored = false;              // given, and its log-probabilities are asked for
  std::vector<TokenResult> scores;  // of a scored branch, those that are known and not reported
  double verdict = 0.0;  // scored given: sum of its own log-probabilities; -infinity where they are not known

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t end_position() const { return start_position + size(); }
};

}  // namespace espalier
