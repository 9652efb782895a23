#pragma once

#include <string>
#include <vector>

#include "server/cli/tree_model.h"

namespace espalier::cli {

struct ViewOptions {
  int width = 100;       // columns of a line
  bool colour = false;   // escape codes for dim, bold and colours
  int prompt_lines = 4;  // lines of the root's text that are shown; more are cut in the middle
};

// The tree as lines of text, the shared trunk once, a branch a line; branches that a single one continues
// share its line. Pruned branches are dim, the winner is bold, scores stand at the right of what they weigh.
std::vector<std::string> DrawTree(const TreeModel& tree, const ViewOptions& options);

// One line on what the request cost: tokens, cache, KV bytes, speed.
std::string DescribeUsage(const TreeModel& tree);

// Columns that UTF-8 text takes in a terminal. Needs a UTF-8 locale (see setlocale).
int DisplayWidth(const std::string& text);

}  // namespace espalier::cli
