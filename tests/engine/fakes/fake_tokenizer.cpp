#include "tests/engine/fakes/fake_tokenizer.h"

#include <algorithm>
#include <utility>

#include "model/tokenizer/stream_decoder.h"

namespace espalier::test {
namespace {

class FakeTokenizer : public Tokenizer {
 public:
  explicit FakeTokenizer(TokenTable table) : Tokenizer(std::move(table)) {}
  std::string Decode(std::span<const int32_t> ids) const override { return DecodeContinuation(ids); }

 protected:
  Status EncodeText(std::string_view, const EncodeOptions&, std::vector<int32_t>*) const override {
    return Error{ErrorCode::kUnimplemented, "", "this tokenizer only decodes"};
  }
};

TokenInfo Special(const std::string& piece) {
  return {
      .piece = piece, .text = "", .kind = TokenInfo::Kind::kSkipped, .special = true, .strippable = false};
}

}  // namespace

std::shared_ptr<const Tokenizer> MakeFakeTokenizer(int32_t vocab_size) {
  TokenTable table;
  table.tokens = {Special("<unk>"), Special("<s>"), Special("</s>")};
  for (const char* text : {"a", "b", "ab", "ba", "aab", " a", " b", "\n", "c", "abc", "\xC3\xA9"}) {
    table.tokens.push_back({.piece = text, .text = text, .kind = TokenInfo::Kind::kText});
  }
  // Of U+00E9, U+20AC and U+1F600; no character begins with the last.
  for (const char* byte : {"\xC3", "\xA9", "\xE2", "\x82", "\xAC", "\xF0", "\x9F", "\x98", "\x80", "\xFF"}) {
    table.tokens.push_back(
        {.piece = std::string("byte ") + byte, .text = byte, .kind = TokenInfo::Kind::kByte});
  }
  while (static_cast<int32_t>(table.tokens.size()) < vocab_size) {
    const std::string letter(1, static_cast<char>('d' + (table.tokens.size() % 22)));
    const std::string text = letter + std::to_string(table.tokens.size());
    table.tokens.push_back({.piece = text, .text = text, .kind = TokenInfo::Kind::kText});
  }
  table.tokens.resize(static_cast<size_t>(vocab_size));
  table.bos_id = 1;
  table.eos_id = 2;
  table.unk_id = 0;
  return std::make_shared<FakeTokenizer>(std::move(table));
}

NaiveText TextOf(const Tokenizer& tokenizer, std::span<const int32_t> token_ids, bool at_start,
                 const std::vector<std::string>& stop_strings) {
  NaiveText result;
  for (size_t n = 1; n <= token_ids.size(); ++n) {
    StreamDecoder decoder(tokenizer, at_start);
    std::string text;
    for (size_t i = 0; i < n; ++i) text += decoder.Push(token_ids[i]);
    result.tokens = static_cast<int32_t>(n);
    size_t first = std::string::npos;
    for (const std::string& stop : stop_strings) first = std::min(first, text.find(stop));
    if (first != std::string::npos) {
      result.text = text.substr(0, first);
      result.stopped = true;
      return result;
    }
    result.text = text + decoder.Finish();
  }
  return result;
}

}  // namespace espalier::test
