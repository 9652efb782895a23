#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe_model.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/tokenizer.h"

namespace espalier {

// One step of the normaliser.
struct NormalizerStep {
  bool prepend =
      false;  // Puts `content` before a text that is not empty; otherwise replaces `pattern` by it.
  std::string pattern;
  std::string content;
};

// Pre-tokeniser Metaspace: spaces become `replacement`, and words start at it.
struct Metaspace {
  enum class Prepend : uint8_t { kAlways, kFirst, kNever };
  std::string replacement;
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};

// Pre-tokeniser ByteLevel: words, cut out by `split` if there is one, are written in byte characters
// (byte_level.h).
struct ByteLevel {
  std::optional<SplitPattern> split;
};

struct ReplaceStep {
  std::string pattern;
  std::string content;
};

// What a tokenizer.json says, as far as it is supported: BPE over bytes (`byte_level`), or over characters
// with optional byte fallback, as SentencePiece models are written in this format.
struct TokenizerJson {
  std::vector<std::string> vocab;  // Token of each id of the model.
  std::vector<std::pair<std::string, std::string>> merges;
  BpeOptions bpe;
  std::vector<AddedToken> added_tokens;  // Ordered by id; ids agree with `vocab` or follow it without a gap.

  std::vector<NormalizerStep> normalizer;
  std::optional<Metaspace> metaspace;   // At most one of these two.
  std::optional<ByteLevel> byte_level;  // The decoder is ByteLevel then, and there is no normaliser.

  std::vector<ReplaceStep> decoder_replaces;
  bool decoder_byte_fallback = false;
  LeadingStrip leading_strip;

  std::string template_bos;  // Token that the post-processor puts first; empty: none.
};

// Reads the file and refuses by name what would not be encoded or decoded exactly.
Result<TokenizerJson> ReadTokenizerJson(const std::filesystem::path& file);

}  // namespace espalier
