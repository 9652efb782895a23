#include "model/tokenizer/stream_decoder.h"

#include "model/tokenizer/utf8.h"

namespace espalier {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool at_start)
    : tokenizer_(&tokenizer),
      strips_left_(at_start ? tokenizer.leading_strip().count : 0),
      is_first_(at_start) {}

std::string StreamDecoder::Push(int32_t id) {
  std::string out;
  if (!tokenizer_->IsValid(id)) return out;
  const TokenInfo& info = is_first_ ? tokenizer_->FirstInfo(id) : tokenizer_->Info(id);
  if (info.kind != TokenInfo::Kind::kSkipped) is_first_ = false;
  switch (info.kind) {
    case TokenInfo::Kind::kSkipped:
      break;
    case TokenInfo::Kind::kByte:
      PushByte(info, &out);
      break;
    case TokenInfo::Kind::kBytes:
      PushBytes(info, &out);
      break;
    case TokenInfo::Kind::kText:
      Flush(&out);
      Append(info.text, info.strippable, &out);
      break;
  }
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  if (pending_bytes_ > 0) Append(kReplacementCharacter, pending_strippable_, &out);
  pending_bytes_ = 0;
  return out;
}

std::string StreamDecoder::FinishBytewise() {
  std::string out;
  Flush(&out);
  return out;
}

void StreamDecoder::PushByte(const TokenInfo& info, std::string* out) {
  pending_[pending_bytes_++] = info.text[0];
  pending_strippable_ = info.strippable;
  while (pending_bytes_ > 0) {
    const std::string_view bytes(pending_.data(), pending_bytes_);
    const Utf8Char c = ReadUtf8(bytes);
    if (c.state == Utf8Char::State::kIncomplete) return;
    const bool valid = c.state == Utf8Char::State::kValid;
    const size_t used = valid ? c.size_bytes : 1;
    Append(valid ? bytes.substr(0, used) : kReplacementCharacter, info.strippable, out);
    for (size_t i = used; i < bytes.size(); ++i) pending_[i - used] = pending_[i];
    pending_bytes_ = static_cast<uint8_t>(pending_bytes_ - used);
  }
}

void StreamDecoder::PushBytes(const TokenInfo& info, std::string* out) {
  for (const char byte : info.text) {
    pending_[pending_bytes_++] = byte;
    pending_strippable_ = info.strippable;
    const std::string_view bytes(pending_.data(), pending_bytes_);
    const Utf8Char c = ReadUtf8(bytes);
    if (c.state == Utf8Char::State::kIncomplete) continue;
    if (c.state == Utf8Char::State::kValid) {
      Append(bytes, info.strippable, out);
      pending_bytes_ = 0;
      continue;
    }
    // What waited began a character that this byte does not continue; the byte may begin another.
    Append(kReplacementCharacter, info.strippable, out);
    pending_bytes_ = 0;
    if (bytes.size() == 1) continue;
    if (ReadUtf8({&byte, 1}).state == Utf8Char::State::kIncomplete) {
      pending_[pending_bytes_++] = byte;
    } else {
      AppendLossyByRun({&byte, 1}, out);
    }
  }
}

void StreamDecoder::Flush(std::string* out) {
  for (; pending_bytes_ > 0; --pending_bytes_) Append(kReplacementCharacter, pending_strippable_, out);
}

void StreamDecoder::Append(std::string_view text, bool strippable, std::string* out) {
  const LeadingStrip& strip = tokenizer_->leading_strip();
  while (strippable && strips_left_ > 0 && text.starts_with(strip.content)) {
    text.remove_prefix(strip.content.size());
    --strips_left_;
    if (strip.once_per_token) break;
  }
  if (!text.empty()) strips_left_ = 0;
  out->append(text);
}

}  // namespace espalier
