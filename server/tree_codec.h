#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "engine/tree_event.h"
#include "engine/tree_request.h"
#include "espalier/v1/tree.pb.h"
#include "kernels/base/result.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// How the texts of a request are encoded.
struct TextRules {
  const Tokenizer& tokenizer;
  int32_t max_path_tokens;
  // Looked at between texts: set it, and encoding ends with kCancelled.
  const std::atomic<bool>& cancelled;
};

// Translates a request, encoding its texts. `seed` is used where the request has none. Checks what only the
// message can show (a node without content, ids that name no earlier node, unknown enum values) and the size
// of texts. The rest is ValidateTreeRequest's. Errors are kInvalidArgument and name the field; or kCancelled.
Result<TreeRequest> FromProto(const v1::GenerateRequest& message, const TextRules& rules, uint64_t seed);

// The prompt as the root and a scored given node for each continuation; texts as above.
Result<TreeRequest> FromProto(const v1::ScoreRequest& message, const TextRules& rules);

// The engine's errors name nodes of the tree; the client of Score knows prompt and continuations.
Error WithScoreField(Error error, const v1::ScoreRequest& message);

// Translates events of one request; keeps the ids of its nodes.
class TreeEncoder {
 public:
  explicit TreeEncoder(const TreeRequest& request);

  v1::GenerateResponse ToProto(const TreeStarted& event) const;
  v1::GenerateResponse ToProto(const TreeProgress& event) const;
  v1::GenerateResponse ToProto(TreeDelta event) const;
  v1::GenerateResponse ToProto(const TreeSelected& event) const;
  v1::GenerateResponse ToProto(const TreeFinished& event) const;
  // About what ToProto gives, and at least that.
  int64_t BytesOf(const TreeFinished& event) const;

 private:
  std::vector<std::string> node_ids_;
  std::vector<int32_t> node_parents_;
  std::vector<int64_t> path_bytes_;  // of the ids from the root to the node, as a list
};

void ToProto(const TreeUsage& usage, v1::Usage& message);
void ToProto(const std::vector<TokenLogprob>& entries, v1::TopLogprobs& message);

}  // namespace espalier
