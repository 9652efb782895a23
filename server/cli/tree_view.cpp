#include "server/cli/tree_view.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cwchar>
#include <utility>

namespace espalier::cli {
namespace {

constexpr const char* kReset = "\x1b[0m";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kGreen = "\x1b[32m";
constexpr const char* kCyan = "\x1b[36m";

// Bytes and columns of the character at `text[at]`.
std::pair<size_t, int> CharacterAt(const std::string& text, size_t at) {
  std::mbstate_t state{};
  wchar_t wide = 0;
  const size_t length = std::mbrtowc(&wide, text.data() + at, text.size() - at, &state);
  if (length == 0 || length > text.size()) return {1, 1};
  return {length, std::max(0, ::wcwidth(wide))};
}

// Newlines and other control characters (C0, DEL and C1) made visible, so that a branch stays on its line and
// no model writes escape codes to the terminal.
std::string Printable(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (byte == '\n') {
      out += "⏎";
    } else if (byte == '\t') {
      out += "⇥";
    } else if (byte < 0x20 || byte == 0x7f || is_c1) {
      out += "�";
      i += is_c1 ? 1 : 0;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The longest start of the text within `columns`, with an ellipsis where something was cut.
std::string Fit(const std::string& text, int columns) {
  if (DisplayWidth(text) <= columns) return text;
  size_t at = 0;
  int used = 0;
  while (at < text.size()) {
    const auto [bytes, width] = CharacterAt(text, at);
    if (used + width > columns - 1) break;
    at += bytes;
    used += width;
  }
  return text.substr(0, at) + "…";
}

// The end of the text within `columns`: what is growing.
std::string FitEnd(const std::string& text, int columns) {
  int excess = DisplayWidth(text) - columns + 1;
  if (excess <= 1) return text;
  size_t at = 0;
  while (at < text.size() && excess > 0) {
    const auto [bytes, width] = CharacterAt(text, at);
    at += bytes;
    excess -= width;
  }
  return "…" + text.substr(at);
}

std::string FormatScore(double score) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%+.2f", score);
  return text.data();
}

class Painter {
 public:
  Painter(const TreeModel& tree, const ViewOptions& options) : tree_(tree), options_(options) {}

  std::vector<std::string> Draw() {
    DrawRoot();
    DrawChildren(tree_.branches().at(0), "");
    return std::move(lines_);
  }

 private:
  std::string Paint(const char* code, const std::string& text) const {
    return options_.colour && !text.empty() ? code + text + kReset : text;
  }

  void DrawRoot() {
    const TreeModel::Branch& root = tree_.branches().at(0);
    std::string title = "● " + Printable(root.node_id);
    if (tree_.started().prompt_tokens() > 0) {
      title += "  " + std::to_string(tree_.started().prompt_tokens()) + " tokens";
      title += ", " + std::to_string(tree_.started().cached_tokens()) + " from the cache";
    }
    lines_.push_back(Paint(kCyan, title));
    std::vector<std::string> text;
    std::string rest = root.text;
    while (!rest.empty()) {
      const size_t newline = rest.find('\n');
      text.push_back(Printable(rest.substr(0, newline)));
      rest = newline == std::string::npos ? "" : rest.substr(newline + 1);
    }
    const auto shown = static_cast<size_t>(std::max(2, options_.prompt_lines));
    if (text.size() > shown) {
      const size_t hidden = text.size() - (shown - 1);
      text.erase(text.begin() + static_cast<std::ptrdiff_t>(shown / 2),
                 text.begin() + static_cast<std::ptrdiff_t>(shown / 2 + hidden));
      text.insert(text.begin() + static_cast<std::ptrdiff_t>(shown / 2),
                  "… " + std::to_string(hidden) + " more lines …");
    }
    for (const std::string& line : text) lines_.push_back("│ " + Fit(line, options_.width - 2));
  }

  // A branch and what alone continues it: a line of the drawing.
  struct Chain {
    std::string text;
    std::string score;
    bool pruned = false;
    bool growing = false;
    const TreeModel::Branch* end = nullptr;
    int times = 1;  // equal pruned branches side by side are drawn once

    bool Repeats(const Chain& other) const {
      return pruned && other.pruned && end->children.empty() && other.end->children.empty() &&
             text == other.text && score == other.score;
    }
  };

  Chain ChainFrom(int32_t number) const {
    Chain chain;
    std::string text;
    for (const TreeModel::Branch* branch = &tree_.branches().at(number);;
         branch = &tree_.branches().at(branch->children.front())) {
      text += branch->text;
      if (branch->has_score) chain.score = FormatScore(branch->score);
      chain.pruned = chain.pruned || branch->state == TreeModel::State::kPruned;
      chain.growing = branch->generated && branch->state == TreeModel::State::kGrowing;
      chain.end = branch;
      if (branch->children.size() != 1) break;
    }
    // Line breaks at the ends would only repeat what the drawing shows.
    const size_t first = text.find_first_not_of('\n');
    const size_t last = text.find_last_not_of('\n');
    chain.text = first == std::string::npos ? "" : Printable(text.substr(first, last - first + 1));
    return chain;
  }

  void DrawChildren(const TreeModel::Branch& branch, const std::string& indent) {
    std::vector<Chain> chains;
    for (const int32_t child : branch.children) {
      Chain chain = ChainFrom(child);
      const auto same = std::find_if(chains.begin(), chains.end(),
                                     [&](const Chain& earlier) { return earlier.Repeats(chain); });
      if (same != chains.end()) {
        ++same->times;
      } else {
        chains.push_back(std::move(chain));
      }
    }
    for (size_t i = 0; i < chains.size(); ++i) {
      const bool last = i + 1 == chains.size();
      DrawChain(chains[i], indent + (last ? "└─ " : "├─ "));
      DrawChildren(*chains[i].end, indent + (last ? "   " : "│  "));
    }
  }

  void DrawChain(const Chain& chain, const std::string& lead) {
    const bool winner = chain.end->winner;
    std::string note = chain.score.empty() ? "" : "  " + chain.score;
    if (chain.times > 1) note += " ×" + std::to_string(chain.times);
    if (chain.pruned) note += " ✗";
    if (winner && chain.end->children.empty() && tree_.finished()) note += " ★";
    const int room = std::max(8, options_.width - DisplayWidth(lead) - DisplayWidth(note) - 1);
    std::string text = chain.growing ? FitEnd(chain.text, room) + "▌" : Fit(chain.text, room);
    if (chain.pruned) {
      lines_.push_back(lead + Paint(kDim, text + note));
    } else {
      lines_.push_back(lead + (winner ? Paint(kBold, text) : text) + Paint(kGreen, note));
    }
  }

  const TreeModel& tree_;
  const ViewOptions& options_;
  std::vector<std::string> lines_;
};

std::string Bytes(int64_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"B", "KB", "MB", "GB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000.0 && unit + 1 < kUnits.size()) {
    value /= 1000.0;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text.data();
}

}  // namespace

int DisplayWidth(const std::string& text) {
  int columns = 0;
  for (size_t at = 0; at < text.size();) {
    const auto [bytes, width] = CharacterAt(text, at);
    at += bytes;
    columns += width;
  }
  return columns;
}

std::vector<std::string> DrawTree(const TreeModel& tree, const ViewOptions& options) {
  return Painter(tree, options).Draw();
}

std::string DescribeUsage(const TreeModel& tree) {
  const v1::Usage& usage = tree.usage();
  std::array<char, 320> text{};
  const double seconds = static_cast<double>(usage.total_us()) * 1e-6;
  const double saved = usage.kv_read_bytes_sequence() == 0
                           ? 0.0
                           : 100.0 * (1.0 - static_cast<double>(usage.kv_read_bytes()) /
                                                static_cast<double>(usage.kv_read_bytes_sequence()));
  std::snprintf(text.data(), text.size(),
                "%lld/%lld given tokens cached, first token %.1f ms, %lld tokens in %.2f s (%.0f tokens/s), "
                "KV bytes read: %s of %s per branch (-%.0f %%)",
                static_cast<long long>(usage.cached_tokens()), static_cast<long long>(usage.prompt_tokens()),
                static_cast<double>(usage.first_token_us()) * 1e-3,
                static_cast<long long>(usage.generated_tokens()), seconds,
                seconds > 0 ? static_cast<double>(usage.generated_tokens()) / seconds : 0.0,
                Bytes(usage.kv_read_bytes()).c_str(), Bytes(usage.kv_read_bytes_sequence()).c_str(), saved);
  return text.data();
}

}  // namespace espalier::cli
