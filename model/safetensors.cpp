#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/folder_hints.h"
#include "model/json_text.h"

namespace espalier {

namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;  // the header's length, little-endian, before the header

struct ElementType {
  const char* name;
  uint64_t bytes;
  std::optional<DType> dtype;
};

constexpr ElementType kElementTypes[] = {
    {"F32", 4, DType::kFloat32},  {"F16", 2, DType::kFloat16},  {"BF16", 2, DType::kBFloat16},
    {"F64", 8, std::nullopt},     {"I64", 8, std::nullopt},     {"U64", 8, std::nullopt},
    {"C64", 8, std::nullopt},     {"I32", 4, std::nullopt},     {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},     {"U16", 2, std::nullopt},     {"I8", 1, std::nullopt},
    {"U8", 1, std::nullopt},      {"BOOL", 1, std::nullopt},    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt}, {"F8_E8M0", 1, std::nullopt},
};

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  const std::string* tensor = nullptr;
};

// A list of non-negative integers that fit int64_t.
std::optional<std::vector<int64_t>> ReadIntegers(const json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<int64_t> out;
  out.reserve(list.size());
  for (const json& entry : list) {
    if (!entry.is_number_unsigned() || entry.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return std::nullopt;
    }
    out.push_back(entry.get<int64_t>());
  }
  return out;
}

// One member of the header of a file with so many bytes of data. Returns why it is refused, or an empty
// string.
std::string ReadEntry(const json& member, uint64_t data_bytes, SafetensorsEntry& entry, ByteRange& range) {
  if (!member.is_object()) return "must be an object";
  for (const auto& [key, unused] : member.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      return "has an unknown member " + Printable(key);
  }
  const auto dtype = member.find("dtype");
  if (dtype == member.end() || !dtype->is_string()) return "dtype must be a string";
  entry.dtype_name = dtype->get<std::string>();
  const auto type = std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                                 [&](const ElementType& t) { return entry.dtype_name == t.name; });
  if (type == std::end(kElementTypes)) return "unknown dtype " + Printable(entry.dtype_name);
  entry.dtype = type->dtype;

  const auto shape = member.find("shape");
  auto sizes = shape == member.end() ? std::nullopt : ReadIntegers(*shape);
  if (!sizes) return "shape must be a list of non-negative integers";
  entry.shape = std::move(*sizes);
  const auto offsets_member = member.find("data_offsets");
  const auto offsets = offsets_member == member.end() ? std::nullopt : ReadIntegers(*offsets_member);
  if (!offsets || offsets->size() != 2) return "data_offsets must be two non-negative integers";
  range.begin = static_cast<uint64_t>(offsets->front());
  range.end = static_cast<uint64_t>(offsets->back());

  uint64_t bytes = type->bytes;
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return "shape overflows";
  }
  if (range.begin > range.end) return "data_offsets end before they begin";
  if (range.end > data_bytes) {
    return "data_offsets end at byte " + std::to_string(range.end) + " of " + std::to_string(data_bytes) +
           " bytes of data: the file is truncated or its header is wrong";
  }
  if (range.end - range.begin != bytes) {
    return "has " + std::to_string(range.end - range.begin) + " bytes of data where dtype and shape need " +
           std::to_string(bytes);
  }
  entry.bytes = bytes;
  return {};
}

// Ranges must follow one another from the first byte of the data to the last.
Status CheckCoverage(std::vector<ByteRange> ranges, uint64_t data_bytes, const std::string& file) {
  std::sort(ranges.begin(), ranges.end(), [](const ByteRange& a, const ByteRange& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const ByteRange& range : ranges) {
    if (range.begin != covered) {
      return InvalidArgument(file, "tensor " + Printable(*range.tensor) +
                                       (range.begin < covered ? ": data overlaps that of another tensor"
                                                              : ": data begins after a gap"));
    }
    covered = range.end;
  }
  if (covered != data_bytes) {
    return InvalidArgument(file, std::to_string(data_bytes - covered) + " bytes of data belong to no tensor");
  }
  return {};
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  auto file = InputFile::Open(path);
  if (!file) return file.error();
  const uint64_t file_bytes = (*file)->bytes();
  std::vector<std::byte> beginning(static_cast<size_t>(std::min(kLengthBytes, file_bytes)));
  if (auto status = (*file)->Read(0, beginning); !status.ok()) return status.error();
  if (beginning.size() == kLengthBytes) {
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, beginning.data(), kLengthBytes);
    // Longer ones are refused below, whatever they hold.
    header_bytes = std::min({header_bytes, file_bytes - kLengthBytes, uint64_t{kMaxJsonBytes} + 1});
    beginning.resize(static_cast<size_t>(kLengthBytes + header_bytes));
    if (auto status = (*file)->Read(0, beginning); !status.ok()) return status.error();
  }
  auto parsed = Parse(beginning, file_bytes, path);
  if (parsed) parsed->file_ = std::move(*file);
  return parsed;
}

Result<SafetensorsFile> SafetensorsFile::Parse(std::span<const std::byte> beginning, uint64_t file_bytes,
                                               const std::string& name) {
  const std::string_view text(reinterpret_cast<const char*>(beginning.data()), beginning.size());
  if (auto status = CheckNotLfsPointer(text, name); !status.ok()) return status.error();
  if (text.size() < kLengthBytes) return InvalidArgument(name, "is too short for a safetensors file");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, text.data(), kLengthBytes);
  if (header_bytes > file_bytes - kLengthBytes) {
    return InvalidArgument(name, "header of " + std::to_string(header_bytes) + " bytes in a file of " +
                                     std::to_string(file_bytes) + ": truncated or not a safetensors file");
  }
  const std::string_view header_text = text.substr(kLengthBytes, static_cast<size_t>(header_bytes));
  // A byte-order mark is let pass in other files, which people edit.
  if (header_text.starts_with("\xef\xbb\xbf")) return InvalidArgument(name, "header: is not valid JSON");
  const auto header = ParseJsonObject(header_text, name);
  if (!header) return InvalidArgument(name, "header: " + header.error().message);

  SafetensorsFile file;
  std::vector<ByteRange> ranges;
  const uint64_t data_begin = kLengthBytes + header_bytes;
  const uint64_t data_bytes = file_bytes - data_begin;
  for (const auto& [tensor, member] : header->items()) {
    if (tensor == "__metadata__") continue;
    SafetensorsEntry entry;
    ByteRange range;
    if (const std::string why = ReadEntry(member, data_bytes, entry, range); !why.empty()) {
      return InvalidArgument(name, "tensor " + Printable(tensor) + ": " + why);
    }
    entry.offset = data_begin + range.begin;
    range.tensor = &file.tensors_.emplace(tensor, std::move(entry)).first->first;
    ranges.push_back(range);
  }
  if (auto status = CheckCoverage(std::move(ranges), data_bytes, name); !status.ok()) return status.error();
  return file;
}

const SafetensorsEntry* SafetensorsFile::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace espalier
