#pragma once

#include <filesystem>
#include <memory>

#include "kernels/base/result.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_config.h"

namespace espalier {

// A tokenizer.model, by the SentencePiece library. Tokens that `config` lists are found in the text by the
// rules of AddedTokenMatcher; those that the model does not have follow its own, or lie behind unused ids.
//
// What has the dummy prefix, at the start of a sequence (at_start):
//  - a bare file: the first section of ordinary text, as the library does it, and nothing after special
//    tokens;
//  - with a tokenizer_config.json: as transformers does it. Text that begins with a space has none. Where
//    `legacy` is true, each section between tokens of these kinds and user-defined symbols has one, else the
//    text only, if it does not begin with a token. With add_prefix_space false nothing has.
Result<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& file,
                                                     const TokenizerConfig& config);

}  // namespace espalier
