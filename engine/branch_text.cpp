#include "engine/branch_text.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace espalier {
namespace {

// Where the stop string that begins first begins; npos: there is none.
size_t FindStopString(std::string_view text, const std::vector<std::string>& stop_strings) {
  size_t first = std::string_view::npos;
  for (const std::string& stop : stop_strings) first = std::min(first, text.find(stop));
  return first;
}

// Length of the longest end of `text` that some stop string begins with.
size_t HeldBytes(std::string_view text, const std::vector<std::string>& stop_strings) {
  size_t longest = 0;
  for (const std::string& stop : stop_strings) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) longest = n;
    }
  }
  return longest;
}

}  // namespace

BranchText::BranchText(const Tokenizer& tokenizer, bool at_start,
                       std::shared_ptr<const std::vector<std::string>> stop_strings)
    : decoder_(std::in_place, tokenizer, at_start), stop_strings_(std::move(stop_strings)) {}

TextPiece BranchText::Append(int32_t token_id) {
  ESPALIER_CHECK(!ended_);
  TextPiece piece;
  if (!decoder_) return piece;
  std::string text = decoder_->Push(token_id);
  if (stop_strings_ == nullptr || stop_strings_->empty()) {
    piece.text = std::move(text);
    return piece;
  }
  held_ += text;
  const size_t stop = FindStopString(held_, *stop_strings_);
  if (stop != std::string::npos) {
    piece.stop_string_found = true;
    piece.text = held_.substr(0, stop);
    held_.clear();
    ended_ = true;
    return piece;
  }
  const size_t given_out = held_.size() - HeldBytes(held_, *stop_strings_);
  piece.text = held_.substr(0, given_out);
  held_.erase(0, given_out);
  return piece;
}

std::string BranchText::Finish() {
  std::string rest;
  if (!ended_ && decoder_) rest = std::exchange(held_, {}) + decoder_->Finish();
  ended_ = true;
  return rest;
}

}  // namespace espalier
