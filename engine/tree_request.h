#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "kernels/base/result.h"
#include "kernels/step_input.h"
#include "model/model_runner.h"

namespace espalier {

// A tree of generation work, already tokenized. A node is a template: it is instantiated once for every
// branch that survives at its parent, and each instance is a *branch* of the answer. Branch 0 is the root's
// instance; further branches are numbered in order of creation: step by step, parents in the order of their
// numbers, children in the order of the nodes.

// Tokens that the client provides. One branch for each parent branch.
struct GivenSpec {
  std::vector<int32_t> token_ids;  // at least one
  bool score =
      false;  // report their log-probabilities under the path (never from the cache: they are computed)
  int32_t top_logprobs = 0;  // [0, kMaxTopLogprobs]; with score
};

// Sampled continuations: `branches` of them for each parent branch.
struct GenerateSpec {
  int32_t branches = 1;
  SamplingParams sampling;
  int32_t max_new_tokens = 16;            // at least 1
  std::vector<int32_t> stop_token_ids;    // besides the model's end-of-sequence tokens
  std::vector<std::string> stop_strings;  // UTF-8; left out of the text, their tokens are kept in token_ids
  bool ignore_eos = false;                // the model's end-of-sequence tokens do not stop a branch
  int32_t top_logprobs = 0;               // [0, kMaxTopLogprobs]
  // The next row of a branch depends on the result of its last one, not on the token alone: a branch is in at
  // most one step in flight.
  bool awaits_result = false;
};

enum class SelectScore : uint8_t {
  kSumLogprob,     // sum of the raw log-probabilities of all generated tokens from the root to the end of the
                   // path
  kMeanLogprob,    // the same, divided by their number
  kLatestVerdict,  // sum of the log-probabilities of the latest scored given node of the path
  kSumVerdicts,    // sum of those of all scored given nodes of the path
};
enum class SelectScope : uint8_t {
  kLevel,     // keep the best of all branches at the parent node
  kSiblings,  // keep the best of each group of branches with the same nearest branching ancestor
};

// A barrier: waits for every branch at its parent, keeps the `keep` best (ties to the lower branch number)
// and prunes the rest. It makes no branches of its own: its children continue the branches that were kept.
struct SelectSpec {
  int32_t keep = 1;
  SelectScore score = SelectScore::kSumLogprob;
  SelectScope scope = SelectScope::kLevel;
};

struct TreeNodeSpec {
  std::string id;       // unique, not empty, at most 256 bytes
  int32_t parent = -1;  // index of an earlier node; -1 for the first node only, which is given
  std::variant<GivenSpec, GenerateSpec, SelectSpec> content;
};

struct TreeRequest {
  std::vector<TreeNodeSpec> nodes;
  uint64_t seed = 0;            // of all random streams, together with the path of branch ordinals
  bool cache_bypass = false;    // neither reads nor fills the prefix cache
  std::string cache_namespace;  // requests of different namespaces never share KV
  int32_t priority = 0;         // of each peer's requests, higher ones are served first
  // The tree may still grow when all that is asked for is there: it waits for its client then, without memory
  // and rows, until that extends or closes it.
  bool stays_open = false;
  std::string peer;                // who asks: where something is short, peers get equal shares of it
  bool return_prompt_ids = false;  // TreeStarted::prompt_token_ids
  bool return_logprobs = false;    // BranchSummary::logprobs
};

inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kMaxNodesPerRequest = 65536;
inline constexpr size_t kMaxNodeIdBytes = 256;
inline constexpr size_t kMaxNamespaceBytes = 256;
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr size_t kMaxStopTokens = 256;
inline constexpr size_t kMaxLogitBiases = 1024;
// Bounds what a small request can make the server hold: over all branches the nodes on their paths, and the
// candidates of all selections.
inline constexpr int64_t kMaxAnswerEntries = int64_t{1} << 20;

// What an answer may take on the wire unless set otherwise: twice what 1024 branches of 1000 tokens can take.
inline constexpr int64_t kDefaultAnswerBytes = int64_t{128} << 20;

// What one engine can serve.
struct EngineLimits {
  int32_t max_branches = 1024;     // leaves alive at one time in one request
  int32_t max_path_tokens = 2048;  // the model's positions
  int32_t vocab_size = 0;
  int32_t block_tokens = 16;
  int32_t total_blocks = 0;
  int64_t max_answer_bytes = kDefaultAnswerBytes;
};

// Whether the request makes sense and could run on an idle engine: topology, ranges, token ids, branch count,
// path length, blocks needed at the worst point, and bytes of the answer. Errors are kInvalidArgument and
// name the field as the proto does, e.g. `nodes[3].generate.sampling.top_p`.
Status ValidateTreeRequest(const TreeRequest& request, const EngineLimits& limits);

}  // namespace espalier
