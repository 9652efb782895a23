#include "server/cli/tree_view.h"

#include <clocale>

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
  std::string Draw(int width = 60) {
    std::string all;
    for (const std::string& line : DrawTree(tree, {.width = width})) all += line + "\n";
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
  for (const std::string& line : DrawTree(grower.tree, {.width = 30})) CHECK(DisplayWidth(line) <= 30);
  CHECK(grower.Draw(30).find("37 more lines") != std::string::npos);
}

TEST_CASE("control characters of a model cannot reach the terminal") {
  Grower grower(Request());
  grower.Grow(1, 0, "step", "\x1b[2Jgone\x07\xc2\x9b!", v1::FINISH_REASON_MAX_TOKENS);
  CHECK(grower.Draw().find('\x1b') == std::string::npos);
  CHECK(grower.Draw().find('\x07') == std::string::npos);
  CHECK(grower.Draw().find("\xc2\x9b") == std::string::npos);
}

}  // namespace
}  // namespace espalier::cli
