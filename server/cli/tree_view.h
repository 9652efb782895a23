#pragma once

#include <string>
#include <vector>

#include "server/cli/tree_model.h"

namespace espalier::cli {

struct ViewOptions {
  int width = 100;       // columns of a line; fewer than 20 count as 20
  bool colour = false;   // escape codes for dim, bold and colours
  int prompt_lines = 4;  // lines of the root's text that are shown; more are cut in the middle
  bool full = false;     // long texts take as many lines as they need; else they are cut
};

struct DrawnLine {
  std::string text;
  int parent = -1;       // index of the line that this one hangs from
  bool growing = false;  // shows a branch that tokens still come for
};

// The tree as lines of text, parents first: the shared trunk once, a branch a line; branches that a single
// one continues share its line. Pruned branches are dim, the winner is bold, scores stand at the right of
// what they weigh.
std::vector<DrawnLine> DrawTree(const TreeModel& tree, const ViewOptions& options);

// The lines that say most within `rows` (at least 3) rows: those that grow and what they hang from, the last
// of them where not all fit; the rest is folded to "⋯ 12 lines". What is known of the width holds for the
// folds too.
std::vector<std::string> FitRows(const std::vector<DrawnLine>& lines, int rows, const ViewOptions& options);

// What the request cost, in lines within the width: tokens, cache, speed; KV bytes.
std::vector<std::string> DescribeUsage(const TreeModel& tree, int width);

// A line on the tree while it grows: how far its prompt is computed, or what it has by now.
std::string DescribeProgress(const TreeModel& tree, double seconds, int width);

// How far the tree got, without time and speed: "3 of 8 branches growing, 120 tokens".
std::string DescribeReached(const TreeModel& tree);

}  // namespace espalier::cli
