#pragma once

#include <cstdint>

#include "engine/tree_request.h"
#include "model/tokenizer/tokenizer.h"
#include "server/message_limits.h"

namespace espalier {

// Of Tokenize and Detokenize; the proto says so too.
inline constexpr int64_t kMaxTokenizeBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxDetokenizeIds = int64_t{1} << 20;
// What either may list as pieces and text.
inline constexpr int64_t kMaxPiecesBytes = int64_t{16} << 20;

// The most bytes that a text of a tree may have: those that the longest path could hold if all its tokens
// were the longest of the vocabulary.
int64_t MaxTextBytes(const Tokenizer& tokenizer, int32_t max_path_tokens);

// The limits of all requests of espalier.v1. They refuse nothing that could be served: they only refuse it
// before it takes memory.
MessageLimits RequestLimits(const EngineLimits& limits, const Tokenizer& tokenizer);

}  // namespace espalier
