#include "model/tokenizer/byte_level.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "model/tokenizer/utf8.h"

namespace espalier {
namespace {

constexpr char32_t kFirstMoved = 0x100;
constexpr size_t kMovedBytes = 0x21 + 0x22 + 1;  // 0x00 to the space, 0x7F to 0xA0, 0xAD.

// A character in UTF-8, of one byte or two.
struct Character {
  std::array<char, 2> bytes{};
  uint8_t size_bytes = 0;
};

struct Tables {
  std::array<Character, 256> character_of;
  std::array<int16_t, kFirstMoved + kMovedBytes> byte_of;  // -1: none.
};

Tables MakeTables() {
  Tables tables;
  tables.byte_of.fill(-1);
  char32_t next_moved = kFirstMoved;
  for (int byte = 0; byte < 256; ++byte) {
    const bool moved = byte <= 0x20 || (byte >= 0x7F && byte <= 0xA0) || byte == 0xAD;
    const char32_t character = moved ? next_moved++ : static_cast<char32_t>(byte);
    std::string utf8;
    AppendUtf8(character, &utf8);
    Character& entry = tables.character_of[static_cast<size_t>(byte)];
    std::copy(utf8.begin(), utf8.end(), entry.bytes.begin());
    entry.size_bytes = static_cast<uint8_t>(utf8.size());
    tables.byte_of[character] = static_cast<int16_t>(byte);
  }
  return tables;
}

const Tables& GetTables() {
  static const Tables tables = MakeTables();
  return tables;
}

}  // namespace

void AppendBytesAsCharacters(std::string_view bytes, std::string* out) {
  const Tables& tables = GetTables();
  const size_t start = out->size();
  out->resize(start + 2 * bytes.size());
  char* end = out->data() + start;
  // Both bytes are written, whether the second counts or not: no branch.
  for (const char byte : bytes) {
    const Character& character = tables.character_of[static_cast<uint8_t>(byte)];
    end[0] = character.bytes[0];
    end[1] = character.bytes[1];
    end += character.size_bytes;
  }
  out->resize(static_cast<size_t>(end - out->data()));
}

std::string CharactersToBytes(std::string_view text) {
  const Tables& tables = GetTables();
  std::string out;
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Char c = ReadUtf8(rest);
    const int byte = c.code_point < tables.byte_of.size() ? tables.byte_of[c.code_point] : -1;
    if (byte < 0) return std::string(text);
    out.push_back(static_cast<char>(static_cast<uint8_t>(byte)));
    rest.remove_prefix(c.size_bytes);
  }
  return out;
}

}  // namespace espalier
