#include "model/tokenizer/sentencepiece_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <unordered_map>

namespace espalier {
namespace {

// Field numbers of ModelProto, SentencePiece and NormalizerSpec.
constexpr uint64_t kPieces = 1;
constexpr uint64_t kType = 3;
constexpr uint64_t kUserDefined = 4;  // A value of kType.
constexpr uint64_t kTrainerSpec = 2;
constexpr uint64_t kNormalizerSpec = 3;
constexpr uint64_t kSelfTestData = 4;
constexpr uint64_t kDenormalizerSpec = 5;
constexpr uint64_t kPrecompiledCharsmap = 2;
constexpr uint64_t kAddDummyPrefix = 3;
constexpr uint64_t kRemoveExtraWhitespaces = 4;

struct WireField {
  uint64_t number = 0;
  uint64_t varint = 0;       // Wire type 0.
  std::string_view payload;  // Wire type 2.
  std::string_view whole;    // Tag included.
};

std::optional<uint64_t> ReadVarint(std::string_view* bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// The next field of a protocol-buffer message (https://protobuf.dev/programming-guides/encoding/); nullopt:
// damaged.
std::optional<WireField> ReadField(std::string_view* bytes) {
  const std::string_view start = *bytes;
  const auto tag = ReadVarint(bytes);
  if (!tag) return std::nullopt;
  WireField field;
  field.number = *tag >> 3;
  uint64_t skipped_bytes = 0;
  switch (*tag & 7) {
    case 0: {
      const auto value = ReadVarint(bytes);
      if (!value) return std::nullopt;
      field.varint = *value;
      break;
    }
    case 1:
      skipped_bytes = 8;
      break;
    case 2: {
      const auto size_bytes = ReadVarint(bytes);
      if (!size_bytes || *size_bytes > bytes->size()) return std::nullopt;
      field.payload = bytes->substr(0, *size_bytes);
      skipped_bytes = *size_bytes;
      break;
    }
    case 5:
      skipped_bytes = 4;
      break;
    default:  // Groups are not used by this format.
      return std::nullopt;
  }
  if (skipped_bytes > bytes->size()) return std::nullopt;
  bytes->remove_prefix(skipped_bytes);
  field.whole = start.substr(0, start.size() - bytes->size());
  return field;
}

// Checks a precompiled character map: <trie bytes: uint32> <double-array trie> <replacements, each ended by
// NUL>. The trie is that of darts-clone: node b has a child for byte c when unit[b ^ c] carries label c.
class CharsmapChecker {
 public:
  explicit CharsmapChecker(std::string_view charsmap) : charsmap_(charsmap) {}

  bool IsSound() {
    uint32_t trie_bytes = 0;
    if (charsmap_.size() <= sizeof trie_bytes) return false;
    std::memcpy(&trie_bytes, charsmap_.data(), sizeof trie_bytes);
    if (trie_bytes == 0 || trie_bytes % 1024 != 0 || trie_bytes >= charsmap_.size() - sizeof trie_bytes) {
      return false;
    }
    trie_ = charsmap_.substr(sizeof trie_bytes, trie_bytes);
    units_ = trie_bytes / 4;
    replacement_bytes_ = charsmap_.size() - sizeof trie_bytes - trie_bytes;
    return charsmap_.back() == '\0' && RulesBelow(Offset(Unit(0)), 0) >= 0;
  }

 private:
  // The library keeps 32 matching rules per place and trusts the trie not to hold more on one path.
  static constexpr int kMaxRulesOnPath = 32;
  static constexpr int kMaxDepth = 1024;
  static constexpr int kBeingVisited = -2;

  uint32_t Unit(uint32_t at) const {
    uint32_t unit;
    std::memcpy(&unit, trie_.data() + size_t{at} * sizeof unit, sizeof unit);
    return unit;
  }
  static uint32_t Label(uint32_t unit) { return unit & 0x800000FFu; }
  static bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
  static uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

  // Most rules on a path down from `node`; -1: out of bounds, a circle, or too many.
  int RulesBelow(uint32_t node, int depth) {
    if ((node | 0xFF) >= units_ || depth > kMaxDepth) return -1;
    const auto [known, is_new] = rules_below_.emplace(node, kBeingVisited);
    if (!is_new) return std::max(known->second, -1);
    int max = 0;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t at = node ^ byte;
      const uint32_t unit = Unit(at);
      if (Label(unit) != byte) continue;
      const uint32_t child = at ^ Offset(unit);
      const int below = RulesBelow(child, depth + 1);
      if (below < 0) return -1;
      if (HasLeaf(unit) && (Unit(child) & 0x7FFFFFFFu) >= replacement_bytes_) return -1;
      max = std::max(max, below + (HasLeaf(unit) ? 1 : 0));
    }
    if (max > kMaxRulesOnPath) return -1;
    rules_below_[node] = max;
    return max;
  }

  std::string_view charsmap_;
  std::string_view trie_;
  uint32_t units_ = 0;
  size_t replacement_bytes_ = 0;
  std::unordered_map<uint32_t, int> rules_below_;
};

Status ReadNormalizer(std::string_view spec, SentencePieceModel* model) {
  while (!spec.empty()) {
    const auto field = ReadField(&spec);
    if (!field) return InvalidArgument("", "normalizer_spec is damaged");
    if (field->number == kAddDummyPrefix) model->add_dummy_prefix = field->varint != 0;
    if (field->number == kRemoveExtraWhitespaces) model->remove_extra_whitespaces = field->varint != 0;
    if (field->number != kPrecompiledCharsmap || field->payload.empty()) continue;
    if (!CharsmapChecker(field->payload).IsSound()) {
      return InvalidArgument("", "normalizer_spec.precompiled_charsmap is damaged");
    }
  }
  return {};
}

Result<bool> IsUserDefined(std::string_view piece) {
  bool is_user_defined = false;
  while (!piece.empty()) {
    const auto field = ReadField(&piece);
    if (!field) return InvalidArgument("", "a piece is damaged");
    if (field->number == kType) is_user_defined = field->varint == kUserDefined;
  }
  return is_user_defined;
}

Status RefuseDenormalizer(std::string_view spec) {
  while (!spec.empty()) {
    const auto field = ReadField(&spec);
    if (!field) return InvalidArgument("", "denormalizer_spec is damaged");
    if (field->number == kPrecompiledCharsmap && !field->payload.empty()) {
      return InvalidArgument("", "denormalizer_spec.precompiled_charsmap is not supported");
    }
  }
  return {};
}

}  // namespace

Result<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  int32_t pieces = 0;
  bool has_trainer_spec = false;
  bool has_normalizer_spec = false;
  model.without_dummy_prefix.reserve(bytes.size() + 4);
  while (!bytes.empty()) {
    const auto field = ReadField(&bytes);
    if (!field) return InvalidArgument("", "is no SentencePiece model, or is cut off");
    has_trainer_spec = has_trainer_spec || field->number == kTrainerSpec;
    has_normalizer_spec = has_normalizer_spec || field->number == kNormalizerSpec;
    Status read;
    if (field->number == kPieces) {
      const auto user_defined = IsUserDefined(field->payload);
      if (!user_defined) return user_defined.error();
      if (*user_defined) model.user_defined.push_back(pieces);
      ++pieces;
    }
    if (field->number == kNormalizerSpec) read = ReadNormalizer(field->payload, &model);
    if (field->number == kDenormalizerSpec) read = RefuseDenormalizer(field->payload);
    if (!read) return read.error();
    // Self-tests expect the dummy prefix.
    if (field->number != kSelfTestData) model.without_dummy_prefix += field->whole;
  }
  // They stand after the pieces: without this check a file cut between two pieces would pass for a smaller
  // one.
  if (!has_trainer_spec || !has_normalizer_spec) {
    return InvalidArgument(
        "", "is no SentencePiece model, or is cut off: trainer_spec or normalizer_spec is missing");
  }
  // A message that comes again is merged field by field into the one before: this sets
  // normalizer_spec.add_dummy_prefix to false and leaves the rest.
  model.without_dummy_prefix += std::string{kNormalizerSpec << 3 | 2, 2, kAddDummyPrefix << 3 | 0, 0};
  return model;
}

}  // namespace espalier
