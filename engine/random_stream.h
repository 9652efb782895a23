#pragma once

#include <cstdint>
#include <vector>

#include "engine/tree_request.h"

namespace espalier {

// Keys of the random streams of branches. A branch's key depends on the request's seed and on its path of
// ordinals alone, never on the batch, the order of work or the branch's number. The mapping is part of the
// contract "same path, same seed, same tokens" and does not change between versions.
//
// The ordinal of a branch is its rank among all branches that its parent branch could have: the parent's
// child nodes in the order of the request (a select stands for its own children), and the branches of one
// node counted up.
//
// Mix is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
// OOPSLA 2014), a bijection in which every input bit reaches every output bit.
uint64_t RootStream(uint64_t seed);                             // of branch 0
uint64_t ChildStream(uint64_t parent_stream, int32_t ordinal);  // ordinal >= 0

// For each node of the request: the ordinal of its first branch under each parent branch. Further branches of
// a generating node follow one by one. 0 for the root; unused for selects.
// Precondition: ValidateTreeRequest.
std::vector<int32_t> FirstOrdinals(const TreeRequest& request);

}  // namespace espalier
