#pragma once

#include <filesystem>
#include <memory>

#include "kernels/base/result.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_config.h"

namespace espalier {

// A tokenizer.model, by the SentencePiece library. Tokens that `config` adds after its vocabulary are found
// in the text by the rules of AddedTokenMatcher. Where special tokens split the text of a root, the dummy
// prefix goes before the first stretch of ordinary text and nowhere else.
Result<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& file,
                                                     const TokenizerConfig& config);

}  // namespace espalier
