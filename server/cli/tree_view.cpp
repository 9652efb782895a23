#include "server/cli/tree_view.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>
#include <utility>

#include "server/console/text.h"

namespace espalier::cli {
namespace {

constexpr const char* kReset = "\x1b[0m";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kBold = "\x1b[1m";
constexpr const char* kGreen = "\x1b[32m";
constexpr const char* kCyan = "\x1b[36m";

constexpr int kMinWidth = 20;

std::string Paint(bool colour, const char* code, const std::string& text) {
  return colour && !text.empty() ? code + text + kReset : text;
}

std::string FormatScore(double score) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%+.2f", score);
  return text.data();
}

// What stands left of a branch: for each level above whether a line goes on there. Of deep trees on narrow
// terminals only the levels nearest to the branch are shown.
class Indent {
 public:
  Indent Below(bool goes_on) const {
    Indent below = *this;
    below.levels_ += goes_on ? '|' : ' ';
    ++below.depth_;
    if (below.levels_.size() > kKept) below.levels_.erase(0, 1);
    return below;
  }

  std::string Draw(int width) const {
    const bool narrow = width < 60;
    const auto room = static_cast<size_t>(std::max(2, width / 2 / (narrow ? 2 : 3)));
    const size_t shown = depth_ > room ? room - 1 : depth_;
    std::string text;
    if (shown < depth_) text = narrow ? "⋯ " : "⋯  ";
    for (const char level : levels_.substr(levels_.size() - std::min(shown, levels_.size()))) {
      text += level == '|' ? "│" : " ";
      text += narrow ? " " : "  ";
    }
    return text;
  }

  static std::string Branch(bool last, int width) {
    const std::string corner = last ? "└" : "├";
    return corner + (width < 60 ? " " : "─ ");
  }

 private:
  static constexpr size_t kKept = 200;
  std::string levels_;  // the last kKept
  size_t depth_ = 0;
};

class Painter {
 public:
  Painter(const TreeModel& tree, const ViewOptions& options)
      : tree_(tree), options_(options), width_(std::max(options.width, kMinWidth)) {}

  std::vector<DrawnLine> Draw() {
    DrawRoot();
    PushChildren(tree_.branches().at(0), Indent(), 0);
    while (!pending_.empty()) {
      const Pending next = std::move(pending_.back());
      pending_.pop_back();
      const int line = static_cast<int>(lines_.size());
      DrawChain(next);
      PushChildren(*next.chain.end, next.indent.Below(!next.last), line);
    }
    return std::move(lines_);
  }

 private:
  // A branch and what alone continues it: a line of the drawing.
  struct Chain {
    std::string text;
    std::string score;
    bool pruned = false;
    bool failed = false;
    bool growing = false;
    const TreeModel::Branch* end = nullptr;
    int times = 1;  // equal pruned branches side by side are drawn once

    bool Repeats(const Chain& other) const {
      return pruned && other.pruned && end->children.empty() && other.end->children.empty() &&
             text == other.text && score == other.score;
    }
  };
  struct Pending {
    Chain chain;
    Indent indent;
    bool last = false;
    int parent = 0;  // line
  };

  void Add(std::string text, int parent, bool growing = false) {
    lines_.push_back({std::move(text), parent, growing});
  }

  void DrawRoot() {
    const TreeModel::Branch& root = tree_.branches().at(0);
    std::string title = "● " + Printable(root.node_id);
    if (tree_.started().prompt_tokens() > 0) {
      title += "  " + std::to_string(tree_.started().prompt_tokens()) + " tokens";
      title += ", " + std::to_string(tree_.started().cached_tokens()) + " from the cache";
    }
    Add(Paint(options_.colour, kCyan, Fit(title, width_)), -1);
    std::vector<std::string> text = LinesOfRoot(root.text);
    const auto shown = static_cast<size_t>(std::max(2, options_.prompt_lines));
    if (text.size() > shown && !options_.full) {
      const size_t hidden = text.size() - (shown - 1);
      const auto middle = text.begin() + static_cast<std::ptrdiff_t>(shown / 2);
      text.erase(middle, middle + static_cast<std::ptrdiff_t>(hidden));
      text.insert(text.begin() + static_cast<std::ptrdiff_t>(shown / 2),
                  "… " + std::to_string(hidden) + " more lines …");
    }
    for (const std::string& line : text) Add("│ " + Fit(line, width_ - 2), 0);
  }

  std::vector<std::string> LinesOfRoot(std::string_view text) const {
    if (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    if (text.empty()) return {};
    if (options_.full) return Wrap(text, width_ - 2);
    std::vector<std::string> lines;
    while (true) {
      const size_t newline = text.find('\n');
      lines.push_back(Printable(text.substr(0, newline)));
      if (newline == std::string_view::npos) return lines;
      text.remove_prefix(newline + 1);
    }
  }

  Chain ChainFrom(int32_t number) const {
    Chain chain;
    for (const TreeModel::Branch* branch = &tree_.branches().at(number);;
         branch = &tree_.branches().at(branch->children.front())) {
      chain.text += branch->text;
      if (branch->has_score) {
        chain.score = FormatScore(branch->score);
      } else if (!branch->generated && branch->has_logprob) {
        chain.score = FormatScore(branch->sum_logprob);
      }
      chain.failed = chain.failed || branch->failed;
      chain.pruned = chain.pruned || branch->state == TreeModel::State::kPruned;
      chain.growing = branch->generated && branch->state == TreeModel::State::kGrowing;
      chain.end = branch;
      if (branch->children.size() != 1) break;
    }
    // Line breaks at the ends would only repeat what the drawing shows.
    const size_t first = chain.text.find_first_not_of('\n');
    const size_t last = chain.text.find_last_not_of('\n');
    chain.text = first == std::string::npos ? "" : chain.text.substr(first, last - first + 1);
    return chain;
  }

  void PushChildren(const TreeModel::Branch& branch, const Indent& indent, int parent) {
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
    for (size_t i = chains.size(); i > 0; --i) {  // the first one is drawn next
      pending_.push_back({std::move(chains[i - 1]), indent, i == chains.size(), parent});
    }
  }

  void DrawChain(const Pending& item) {
    const Chain& chain = item.chain;
    const bool winner = chain.end->winner;
    const std::string lead = item.indent.Draw(width_) + Indent::Branch(item.last, width_);
    std::string marks;
    if (chain.times > 1) marks += " ×" + std::to_string(chain.times);
    if (chain.pruned) marks += " ✗";
    if (chain.failed) marks += " error";
    if (winner && chain.end->children.empty() && tree_.finished()) marks += " ★";
    std::string note = (chain.score.empty() ? "" : "  " + chain.score) + marks;
    constexpr int kMinText = 8;
    const int behind_lead = width_ - DisplayWidth(lead);
    if (behind_lead - DisplayWidth(note) < kMinText) note = marks;
    const int room = std::max(1, behind_lead - DisplayWidth(note));
    if (options_.full && !chain.growing) return DrawFull(item, lead, note, room);
    const std::string shown = Printable(chain.text);
    const std::string text = chain.growing ? FitEnd(shown, std::max(1, room - 1)) + "▌" : Fit(shown, room);
    AddPainted(item, lead, text, note, item.parent);
  }

  void AddPainted(const Pending& item, const std::string& lead, const std::string& text,
                  const std::string& note, int parent) {
    const Chain& chain = item.chain;
    const bool colour = options_.colour;
    if (chain.pruned) return Add(lead + Paint(colour, kDim, text + note), parent, chain.growing);
    const std::string body = chain.end->winner ? Paint(colour, kBold, text) : text;
    Add(lead + body + Paint(colour, kGreen, note), parent, chain.growing);
  }

  // The whole text, below itself; the note stands at its first line.
  void DrawFull(const Pending& item, const std::string& lead, const std::string& note, int room) {
    const std::vector<std::string> texts = Wrap(item.chain.text, std::max(2, room));
    const int first = static_cast<int>(lines_.size());
    AddPainted(item, lead, texts.front(), note, item.parent);
    const bool has_children = !item.chain.end->children.empty();
    const std::string below = item.indent.Below(!item.last).Draw(width_) + (has_children ? "│ " : "  ");
    for (size_t i = 1; i < texts.size(); ++i) AddPainted(item, below, texts[i], "", first);
  }

  const TreeModel& tree_;
  const ViewOptions& options_;
  const int width_;
  std::vector<DrawnLine> lines_;
  std::vector<Pending> pending_;  // the next one last
};

// Which lines are shown: the last `growing` of those that grow, with all that they hang from.
std::vector<bool> ShowGrowing(const std::vector<DrawnLine>& lines, int growing) {
  std::vector<bool> shown(lines.size(), false);
  if (!lines.empty()) shown[0] = true;
  for (size_t i = lines.size(); i-- > 0 && growing > 0;) {
    if (!lines[i].growing) continue;
    --growing;
    for (int at = static_cast<int>(i); at >= 0 && !shown[static_cast<size_t>(at)];
         at = lines[static_cast<size_t>(at)].parent) {
      shown[static_cast<size_t>(at)] = true;
    }
  }
  return shown;
}

struct Fold {
  size_t begin = 0;
  size_t size = 0;
};

std::vector<Fold> FoldsOf(const std::vector<bool>& shown) {
  std::vector<Fold> folds;
  for (size_t i = 0; i < shown.size(); ++i) {
    if (shown[i]) continue;
    if (i == 0 || shown[i - 1]) folds.push_back({i, 0});
    ++folds.back().size;
  }
  return folds;
}

int RowsOf(const std::vector<bool>& shown) {
  return static_cast<int>(std::count(shown.begin(), shown.end(), true) +
                          static_cast<std::ptrdiff_t>(FoldsOf(shown).size()));
}

// Opens folds while there is room, the shortest first: one of a single line costs nothing.
void OpenFolds(int rows, std::vector<bool>& shown) {
  std::vector<Fold> folds = FoldsOf(shown);
  std::stable_sort(folds.begin(), folds.end(), [](const Fold& a, const Fold& b) { return a.size < b.size; });
  int room = rows - RowsOf(shown);
  for (const Fold& fold : folds) {
    const int cost = static_cast<int>(fold.size) - 1;
    const bool whole = cost <= room;
    const size_t opened = whole ? fold.size : static_cast<size_t>(std::max(room, 0));
    // Of a fold that does not fit, the end: it is the newest.
    for (size_t i = 0; i < opened; ++i) shown[fold.begin + fold.size - 1 - i] = true;
    room -= whole ? cost : static_cast<int>(opened);
  }
}

}  // namespace

std::vector<DrawnLine> DrawTree(const TreeModel& tree, const ViewOptions& options) {
  return Painter(tree, options).Draw();
}

std::vector<std::string> FitRows(const std::vector<DrawnLine>& lines, int rows, const ViewOptions& options) {
  std::vector<bool> shown(lines.size(), true);
  if (static_cast<int>(lines.size()) > rows) {
    int low = 0;  // so many growing lines fit
    int high = static_cast<int>(
        std::count_if(lines.begin(), lines.end(), [](const DrawnLine& line) { return line.growing; }));
    while (low < high) {
      const int middle = std::midpoint(low, high + 1);
      if (RowsOf(ShowGrowing(lines, middle)) <= rows) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    shown = ShowGrowing(lines, low);
    OpenFolds(rows, shown);
  }
  std::vector<std::string> out;
  const std::vector<Fold> folds = FoldsOf(shown);
  auto fold = folds.begin();
  for (size_t i = 0; i < lines.size(); ++i) {
    if (shown[i]) {
      out.push_back(lines[i].text);
    } else if (fold != folds.end() && fold->begin == i) {
      const std::string text = "⋯ " + std::to_string(fold->size) + " lines";
      out.push_back(Paint(options.colour, kDim, Fit(text, std::max(options.width, kMinWidth))));
      ++fold;
    }
  }
  return out;
}

std::vector<std::string> DescribeUsage(const TreeModel& tree, int width) {
  const v1::Usage& usage = tree.usage();
  std::array<char, 320> text{};
  const double seconds = static_cast<double>(usage.total_us()) * 1e-6;
  const auto generated = static_cast<long long>(usage.generated_tokens());
  int length = std::snprintf(text.data(), text.size(), "%lld/%lld given tokens cached",
                             static_cast<long long>(usage.cached_tokens()),
                             static_cast<long long>(usage.prompt_tokens()));
  const auto append = [&](const char* format, auto... values) {
    length +=
        std::snprintf(text.data() + length, text.size() - static_cast<size_t>(length), format, values...);
  };
  if (generated > 0) {
    append(", first token %.1f ms, %lld tokens in %.2f s (%.0f tokens/s)",
           static_cast<double>(usage.first_token_us()) * 1e-3, generated, seconds,
           seconds > 0 ? static_cast<double>(generated) / seconds : 0.0);
  } else {
    append(", nothing generated, %.1f ms", seconds * 1e3);
  }
  if (usage.kv_read_bytes_sequence() > 0) {
    const auto read = static_cast<double>(usage.kv_read_bytes());
    const auto alone = static_cast<double>(usage.kv_read_bytes_sequence());
    append("\nKV bytes read: %s instead of %s path by path (%.0f %% saved)", Bytes(read).c_str(),
           Bytes(alone).c_str(), 100.0 * (1.0 - read / alone));
  }
  if (!tree.request().has_seed() && generated > 0) {
    append("\n--seed %llu grows this tree again", static_cast<unsigned long long>(tree.started().seed()));
  }
  return Wrap(text.data(), std::max(width, kMinWidth));
}

std::string DescribeReached(const TreeModel& tree) {
  if (tree.started().request_id() == 0) return "waiting for the server";
  if (const v1::Progress& prefill = tree.progress(); prefill.total_tokens() > 0) {
    return "prefill " + std::to_string(prefill.computed_tokens()) + "/" +
           std::to_string(prefill.total_tokens()) + " tokens";
  }
  return std::to_string(tree.growing()) + " of " + std::to_string(tree.branches().size() - 1) +
         " branches growing, " + std::to_string(tree.generated_tokens()) + " tokens";
}

std::string DescribeProgress(const TreeModel& tree, double seconds, int width) {
  std::array<char, 32> time{};
  std::snprintf(time.data(), time.size(), "%.1f s  ", seconds);
  std::string reached = DescribeReached(tree);
  if (const v1::Progress& prefill = tree.progress(); prefill.total_tokens() > 0) {
    const int bar = std::clamp(width - 40, 4, 40);
    reached.insert(reached.find(' ') + 1, Bar(prefill.computed_tokens(), prefill.total_tokens(), bar) + " ");
  } else if (tree.started().request_id() != 0) {
    const double rate = seconds > 0 ? static_cast<double>(tree.generated_tokens()) / seconds : 0.0;
    reached += " (" + Count(rate) + "/s)";
  }
  return Fit(time.data() + reached, width);
}

}  // namespace espalier::cli
