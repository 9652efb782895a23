#include "server/cli/tree_view.h"

#include <algorithm>
#include <clocale>
#include <utility>

#include "server/cli/json_lines.h"
#include "server/console/text.h"
#include "tests/support/catch.h"

namespace espalier::cli {
namespace {

struct Grower {
  explicit Grower(const v1::GenerateRequest& request) : tree(request) { std::setlocale(LC_CTYPE, "C.UTF-8"); }

  void Grow(int branch, int parent, const std::string& node, const std::string& text,
            v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED) {
    v1::GenerateResponse response;
    v1::BranchDelta& delta = *response.mutable_delta()->add_branches();
    delta.set_branch(branch);
    delta.set_parent_branch(parent);
    delta.set_node_id(node);
    delta.set_text(text);
    delta.set_finish_reason(reason);
    tree.Apply(response);
  }
  std::string Draw(int width = 60, bool full = false) {
    std::string all;
    for (const DrawnLine& line : DrawTree(tree, {.width = width, .full = full})) all += line.text + "\n";
    return all;
  }

  TreeModel tree;
};

v1::GenerateRequest Request() {
  v1::GenerateRequest request;
  v1::TreeNode& root = *request.add_nodes();
  root.set_id("prompt");
  root.mutable_given()->set_text("one line\nand another");
  v1::TreeNode& step = *request.add_nodes();
  step.set_id("step");
  step.set_parent_id("prompt");
  step.mutable_generate();
  return request;
}

TEST_CASE("branches grow side by side under a trunk drawn once") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "first\nline", v1::FINISH_REASON_MAX_TOKENS);
  grower.Grow(2, 0, "step", "second");
  CHECK(grower.Draw() ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├─ first⏎line\n"
        "└─ second▌\n");
}

TEST_CASE("a branch that ended with an error says so, and is never the best") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "cut sh", v1::FINISH_REASON_ERROR);
  CHECK(grower.tree.growing() == 0);
  CHECK(grower.tree.Best() == -1);
  grower.Grow(2, 0, "step", "whole", v1::FINISH_REASON_MAX_TOKENS);
  CHECK(grower.tree.Best() == 2);
  CHECK(grower.Draw() ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├─ cut sh error\n"
        "└─ whole\n");
}

TEST_CASE("the JSON of a branch has the reason why it ended") {
  v1::GenerateResponse response;
  v1::Branch& branch = *response.mutable_finished()->add_branches();
  const std::pair<v1::FinishReason, Json> reasons[] = {{v1::FINISH_REASON_UNSPECIFIED, nullptr},
                                                       {v1::FINISH_REASON_STOP_TOKEN, "stop_token"},
                                                       {v1::FINISH_REASON_STOP_STRING, "stop_string"},
                                                       {v1::FINISH_REASON_MAX_TOKENS, "max_tokens"},
                                                       {v1::FINISH_REASON_PRUNED, "pruned"},
                                                       {v1::FINISH_REASON_CANCELLED, "cancelled"},
                                                       {v1::FINISH_REASON_ERROR, "error"}};
  for (const auto& [reason, name] : reasons) {
    branch.set_finish_reason(reason);
    CHECK(ToJson(response)["branches"][0]["finish_reason"] == name);
  }
}

TEST_CASE("selection dims what it prunes, marks the winner, and single continuations share a line") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "a", v1::FINISH_REASON_STOP_STRING);
  grower.Grow(2, 0, "step", "b", v1::FINISH_REASON_STOP_STRING);
  grower.Grow(3, 1, "verdict", " ok");
  grower.Grow(4, 2, "verdict", " ok");
  v1::GenerateResponse selected;
  selected.mutable_selected()->add_kept(4);
  selected.mutable_selected()->add_pruned(3);
  selected.mutable_selected()->add_scores(-0.25);
  selected.mutable_selected()->add_scores(-3.5);
  grower.tree.Apply(selected);
  CHECK(grower.Draw() ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├─ a ok  -3.50 ✗\n"
        "└─ b ok  -0.25\n");
  CHECK(grower.tree.winner() == 4);
  CHECK(grower.tree.PathText(4) == "b ok");
}

TEST_CASE("equal pruned branches side by side are drawn once, with their number") {
  Grower grower(Request());
  for (int branch = 1; branch <= 3; ++branch) {
    grower.Grow(branch, 0, "step", "\nsame\n",
                branch < 3 ? v1::FINISH_REASON_PRUNED : v1::FINISH_REASON_STOP_TOKEN);
  }
  CHECK(grower.Draw() ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├─ same ×2 ✗\n"
        "└─ same\n");
}

TEST_CASE("lines fit the width whatever the script, and long prompts are cut in the middle") {
  v1::GenerateRequest request = Request();
  std::string prompt;
  for (int i = 0; i < 40; ++i) prompt += "line " + std::to_string(i) + " 漢字漢字漢字漢字漢字漢字\n";
  request.mutable_nodes(0)->mutable_given()->set_text(prompt);
  Grower grower(request);
  grower.Grow(1, 0, "step", std::string(200, 'x'), v1::FINISH_REASON_MAX_TOKENS);
  grower.Grow(2, 0, "step", std::string(200, 'y'));
  for (const int width : {20, 30, 40, 80, 200}) {
    for (const DrawnLine& line : DrawTree(grower.tree, {.width = width}))
      CHECK(DisplayWidth(line.text) <= width);
  }
  CHECK(grower.Draw(30).find("37 more lines") != std::string::npos);
}

TEST_CASE("control characters of a model cannot reach the terminal") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "\x1b[2Jgone\x07\xc2\x9b!", v1::FINISH_REASON_MAX_TOKENS);
  CHECK(grower.Draw().find('\x1b') == std::string::npos);
  CHECK(grower.Draw().find('\x07') == std::string::npos);
  CHECK(grower.Draw().find("\xc2\x9b") == std::string::npos);
}

TEST_CASE("a selection may name branches before they are reported themselves") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "a", v1::FINISH_REASON_STOP_STRING);
  grower.Grow(2, 0, "step", "b", v1::FINISH_REASON_STOP_STRING);
  v1::GenerateResponse selected;
  selected.mutable_selected()->add_kept(4);
  selected.mutable_selected()->add_pruned(3);
  selected.mutable_selected()->add_scores(-1);
  selected.mutable_selected()->add_scores(-2);
  grower.tree.Apply(selected);
  CHECK(grower.Draw().find("a\n") != std::string::npos);
  grower.Grow(3, 1, "ok", " ok");
  grower.Grow(4, 2, "ok", " ok");
  CHECK(grower.Draw() ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├─ a ok  -2.00 ✗\n"
        "└─ b ok  -1.00\n");
  CHECK(grower.tree.winner() == 4);
}

TEST_CASE("trees deeper than the terminal is wide stay within it, and say that levels are left out") {
  Grower grower(Request());
  for (int level = 0; level < 60; ++level) {
    grower.Grow(2 * level + 1, std::max(0, 2 * level - 1), "step", "down here", v1::FINISH_REASON_MAX_TOKENS);
    grower.Grow(2 * level + 2, std::max(0, 2 * level - 1), "step", "beside", v1::FINISH_REASON_MAX_TOKENS);
  }
  for (const int width : {20, 40, 80}) {
    const std::vector<DrawnLine> lines = DrawTree(grower.tree, {.width = width});
    CHECK(lines.size() == 3 + 120);
    for (const DrawnLine& line : lines) CHECK(DisplayWidth(line.text) <= width);
    CHECK(lines.back().text.find("beside") != std::string::npos);
    CHECK(grower.Draw(width).find("⋯") != std::string::npos);
  }
}

TEST_CASE("full drawings leave no character out") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "one two three four five six seven\neight", v1::FINISH_REASON_MAX_TOKENS);
  grower.Grow(2, 0, "step", "b", v1::FINISH_REASON_MAX_TOKENS);
  CHECK(grower.Draw(22, true) ==
        "● prompt\n"
        "│ one line\n"
        "│ and another\n"
        "├ one two three four\n"
        "│   five six seven\n"
        "│   eight\n"
        "└ b\n");
}

TEST_CASE("a tree taller than the screen is folded around what grows") {
  Grower grower(Request());
  for (int i = 1; i <= 50; ++i) {
    grower.Grow(i, 0, "step", "branch " + std::to_string(i),
                i == 40 ? v1::FINISH_REASON_UNSPECIFIED : v1::FINISH_REASON_MAX_TOKENS);
  }
  const ViewOptions options{.width = 60};
  const std::vector<DrawnLine> lines = DrawTree(grower.tree, options);
  for (int rows = 4; rows <= 60; ++rows) {
    const std::vector<std::string> shown = FitRows(lines, rows, options);
    CHECK(static_cast<int>(shown.size()) <= rows);
    CHECK(shown.front() == "● prompt");
    CHECK(std::count(shown.begin(), shown.end(), "├─ branch 40▌") == 1);
  }
  CHECK(FitRows(lines, 60, options).size() == lines.size());
  CHECK(FitRows(lines, 6, options) == std::vector<std::string>{"● prompt", "⋯ 41 lines", "├─ branch 40▌",
                                                               "⋯ 8 lines", "├─ branch 49", "└─ branch 50"});
}

TEST_CASE("of more growing branches than rows the last are shown") {
  Grower grower(Request());
  for (int i = 1; i <= 50; ++i)
    grower.Grow(i, 0, "step", "branch " + std::to_string(i), v1::FINISH_REASON_UNSPECIFIED);
  const ViewOptions options{.width = 60};
  CHECK(
      FitRows(DrawTree(grower.tree, options), 5, options) ==
      std::vector<std::string>{"● prompt", "⋯ 49 lines", "├─ branch 48▌", "├─ branch 49▌", "└─ branch 50▌"});
}

TEST_CASE("the best path is below the winner, and else the most likely one") {
  Grower grower(Request());
  const auto score = [&](int branch, float logprob) {
    v1::GenerateResponse response;
    v1::BranchDelta& delta = *response.mutable_delta()->add_branches();
    delta.set_branch(branch);
    delta.set_parent_branch(0);
    delta.set_node_id("step");
    delta.set_text("t" + std::to_string(branch));
    delta.add_logprobs(logprob);
    grower.tree.Apply(response);
  };
  CHECK(grower.tree.Best() == -1);
  score(1, -2.0F);
  score(2, -0.5F);
  score(3, -0.5F);
  CHECK(grower.tree.Best() == 2);
  v1::GenerateResponse selected;
  selected.mutable_selected()->add_kept(1);
  for (const int pruned : {2, 3}) selected.mutable_selected()->add_pruned(pruned);
  for (int i = 0; i < 3; ++i) selected.mutable_selected()->add_scores(0);
  grower.tree.Apply(selected);
  CHECK(grower.tree.Best() == 1);
}

TEST_CASE("the line on progress shows the prefill, then what grows") {
  Grower grower(Request());
  CHECK(DescribeProgress(grower.tree, 0.3, 80) == "0.3 s  waiting for the server");
  v1::GenerateResponse response;
  response.mutable_started()->set_request_id(1);
  grower.tree.Apply(response);
  response.mutable_progress()->set_computed_tokens(50);
  response.mutable_progress()->set_total_tokens(200);
  grower.tree.Apply(response);
  CHECK(DescribeProgress(grower.tree, 1.0, 60) == "1.0 s  prefill █████░░░░░░░░░░░░░░░ 50/200 tokens");
  grower.Grow(1, 0, "step", "a");
  CHECK(DescribeProgress(grower.tree, 2.0, 60) == "2.0 s  1 of 1 branches growing, 0 tokens (0/s)");
  for (int width = 5; width < 60; ++width) {
    CHECK(DisplayWidth(DescribeProgress(grower.tree, 2.0, width)) <= width);
  }
}

}  // namespace
}  // namespace espalier::cli
