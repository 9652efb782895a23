#include "tests/bench/tokenize.h"

#include <time.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "model/tokenizer/tokenizer.h"
#include "tests/bench/statistics.h"
#include "tests/bench/tokenize_texts.h"

namespace espalier::bench {
namespace {

struct Text {
  std::string kind;
  std::string content;
};

double ThreadCpuUs() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

std::string Fnv1a(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash ^= (static_cast<uint32_t>(id) >> shift) & 0xffu;
      hash *= 0x100000001b3u;
    }
  }
  char text[20];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

Result<std::vector<Text>> MakeTexts(const TokenizeOptions& options) {
  std::vector<Text> texts;
  if (!options.text.empty()) {
    std::ifstream file(options.text, std::ios::binary);
    std::ostringstream content;
    if (!(file && content << file.rdbuf()))
      return InvalidArgument("text", "'" + options.text + "' cannot be read, or is empty");
    texts.push_back({"file", content.str()});
  }
  for (const std::string& kind : options.kinds) {
    for (const int32_t bytes : options.sizes_bytes)
      texts.push_back({kind, MakeText(kind, static_cast<size_t>(bytes))});
  }
  return texts;
}

Status Keep(const std::string& folder, const Text& text) {
  const auto path =
      std::filesystem::path(folder) / (text.kind + "-" + std::to_string(text.content.size()) + ".txt");
  std::ofstream file(path, std::ios::binary);
  if (file << text.content << std::flush) return {};
  return InvalidArgument("keep_texts", "'" + path.string() + "' cannot be written");
}

Result<Json> Measure(const Tokenizer& tokenizer, const Text& text, const TokenizeOptions& options) {
  const auto ids = tokenizer.Encode(text.content);
  if (!ids) return InvalidArgument(options.text.empty() ? "tokenizer" : "text", ids.error().message);
  std::vector<double> times_us;
  for (int32_t i = 0; i < options.repeats; ++i) {
    int64_t runs = 0;
    double spent_us = 0.0;
    const double begin_us = ThreadCpuUs();
    do {
      if (!tokenizer.Encode(text.content)) return InternalError("the same text cannot be encoded again");
      ++runs;
      spent_us = ThreadCpuUs() - begin_us;
    } while (spent_us < options.least_ms * 1000.0);
    times_us.push_back(spent_us / static_cast<double>(runs));
  }
  const double us = Median(times_us);
  const auto bytes = static_cast<double>(text.content.size());
  Json row;
  row["workload"] = "tokenize";
  row["kind"] = text.kind;
  row["bytes"] = text.content.size();
  row["tokens"] = ids->size();
  row["encode_us"] = RoundUs(us);
  row["mb_per_s"] = bytes / us;
  row["tokens_per_s"] = static_cast<double>(ids->size()) / us * 1e6;
  row["ns_per_byte"] = us * 1000.0 / bytes;
  row["ids_fnv1a"] = Fnv1a(*ids);
  return row;
}

}  // namespace

Result<Report> RunTokenize(const TokenizeOptions& options) {
  Report report;
  report.load_average = LoadAverage();
  const auto tokenizer = LoadTokenizer(options.tokenizer);
  if (!tokenizer) {
    const Error& error = tokenizer.error();
    return InvalidArgument("tokenizer", (error.field.empty() ? "" : error.field + ": ") + error.message);
  }
  const auto texts = MakeTexts(options);
  if (!texts) return texts.error();
  for (const Text& text : *texts) {
    std::fprintf(stderr, "%s, %zu bytes\n", text.kind.c_str(), text.content.size());
    if (!options.keep_texts.empty()) {
      if (Status kept = Keep(options.keep_texts, text); !kept) return kept.error();
    }
    auto row = Measure(**tokenizer, text, options);
    if (!row) return row.error();
    report.rows.push_back(std::move(*row));
  }
  report.backend.name = "none";
  report.backend.isa = "any";
  report.backend.device = CpuName();
  report.backend.threads = 1;
  report.title = "tokenizer " + options.tokenizer + ", " + std::to_string((*tokenizer)->vocab_size()) +
                 " tokens; CPU time, median of " + std::to_string(options.repeats);
  report.columns = {{"text", "kind"},
                    {"bytes", "bytes"},
                    {"tokens", "tokens"},
                    {"ms", "encode_us", 1e3, 3},
                    {"MB/s", "mb_per_s", 1.0, 2},
                    {"M tokens/s", "tokens_per_s", 1e6, 3},
                    {"ns/byte", "ns_per_byte", 1.0, 1}};
  return report;
}

}  // namespace espalier::bench
