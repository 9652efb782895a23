#include <cmath>
#include <map>
#include <utility>

#include "tests/engine/fakes/naive_tree.h"

namespace espalier::test {
namespace {

std::string Text(const std::vector<int32_t>& values) {
  std::string text;
  for (const int32_t value : values) text += (text.empty() ? "" : " ") + std::to_string(value);
  return "[" + text + "]";
}

// What the deltas said of one branch, put together.
struct Streamed {
  int32_t parent = -1;
  int32_t node = 0;
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  FinishReason finish_reason = FinishReason::kNone;
};

bool SameTop(const std::vector<std::vector<TokenLogprob>>& a,
             const std::vector<std::vector<TokenLogprob>>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].size() != b[i].size()) return false;
    for (size_t k = 0; k < a[i].size(); ++k) {
      if (a[i][k].token_id != b[i][k].token_id || a[i][k].logprob != b[i][k].logprob) return false;
    }
  }
  return true;
}

class Comparison {
 public:
  Comparison(const TreeRequest& request, const std::vector<TreeEvent>& events) : request_(request) {
    for (size_t i = 0; i < events.size() && problem_.empty(); ++i) {
      const bool last = i + 1 == events.size();
      if ((i == 0) != std::holds_alternative<TreeStarted>(events[i]))
        Fail("not exactly one started, at first");
      if (last != std::holds_alternative<TreeFinished>(events[i])) Fail("not exactly one finished, at last");
      if (const auto* progress = std::get_if<TreeProgress>(&events[i])) AddProgress(*progress);
      if (const auto* delta = std::get_if<TreeDelta>(&events[i])) AddDelta(*delta);
      if (const auto* selected = std::get_if<TreeSelected>(&events[i])) selected_[selected->node] = *selected;
      if (const auto* finished = std::get_if<TreeFinished>(&events[i])) finished_ = *finished;
    }
    if (events.empty()) Fail("no events");
  }

  std::string Run(const FakeModel& model, const Tokenizer* tokenizer) {
    if (problem_.empty()) NumberBranches();
    if (!problem_.empty()) return problem_;
    const NaiveResult naive =
        RunNaiveTree(request_, model, tokenizer,
                     [this](const NaiveResult& so_far, int32_t index) { return NumberOf(so_far, index); });
    if (naive.branches.size() != finished_.branches.size() + 1) {
      Fail(std::to_string(finished_.branches.size() + 1) + " branches, expected " +
           std::to_string(naive.branches.size()));
    }
    for (size_t i = 1; i < naive.branches.size() && problem_.empty(); ++i) {
      CompareBranch(naive, static_cast<int32_t>(i));
    }
    if (naive.selections.size() != selected_.size()) Fail("a selection is missing");
    for (const NaiveSelection& selection : naive.selections) {
      if (problem_.empty()) CompareSelection(naive, selection);
    }
    if (problem_.empty()) CompareUsage(naive);
    return problem_;
  }

 private:
  void Fail(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
  }

  void AddProgress(const TreeProgress& progress) {
    if (progress.computed_tokens <= 0 || progress.computed_tokens >= progress.total_tokens)
      Fail("progress of a path that is not under way");
  }

  void AddDelta(const TreeDelta& delta) {
    if (delta.step < last_step_) Fail("steps of deltas descend");
    last_step_ = delta.step;
    for (const BranchDelta& b : delta.branches) {
      const std::string name = "delta of branch " + std::to_string(b.branch);
      Streamed& streamed = streamed_[b.branch];
      if (streamed.finish_reason != FinishReason::kNone) Fail(name + " after its end");
      if (!b.logprobs.empty() && b.logprobs.size() != b.token_ids.size()) Fail(name + ": logprobs");
      streamed.parent = b.parent;
      streamed.node = b.node;
      streamed.token_ids.insert(streamed.token_ids.end(), b.token_ids.begin(), b.token_ids.end());
      streamed.text += b.text;
      streamed.logprobs.insert(streamed.logprobs.end(), b.logprobs.begin(), b.logprobs.end());
      streamed.top_logprobs.insert(streamed.top_logprobs.end(), b.top_logprobs.begin(), b.top_logprobs.end());
      streamed.finish_reason = b.finish_reason;
    }
  }

  // Branches of the same parent and node are ranked by their numbers.
  void NumberBranches() {
    int32_t expected = 1;
    for (const BranchSummary& summary : finished_.branches) {
      if (summary.branch != expected++) return Fail("branches are not numbered one by one");
      if (summary.parent < 0 || summary.parent >= summary.branch)
        return Fail("a parent is not numbered before");
      ranked_[{summary.parent, summary.node}].push_back(summary.branch);
    }
  }

  // -1: the engine has no such branch.
  int32_t NumberOf(const NaiveResult& so_far, int32_t index) {
    for (size_t i = numbers_.size(); i < so_far.branches.size(); ++i) {
      const NaiveBranch& branch = so_far.branches[i];
      if (branch.parent < 0) {
        numbers_.push_back(0);
        continue;
      }
      const auto key = std::make_pair(numbers_[static_cast<size_t>(branch.parent)], branch.node);
      const auto& ranked = ranked_[key];
      size_t& next = next_rank_[key];
      numbers_.push_back(next < ranked.size() ? ranked[next] : -1);
      ++next;
    }
    return numbers_[static_cast<size_t>(index)];
  }

  void CompareBranch(const NaiveResult& naive, int32_t index) {
    const NaiveBranch& want = naive.branches[static_cast<size_t>(index)];
    const int32_t number = NumberOf(naive, index);
    const std::string name = "branch " + std::to_string(number) + " (node " + std::to_string(want.node) + ")";
    if (number < 0)
      return Fail("no branch for index " + std::to_string(index) + " at node " + std::to_string(want.node));
    const BranchSummary& got = finished_.branches[static_cast<size_t>(number - 1)];
    const Streamed& streamed = streamed_[number];
    if (got.token_ids != want.token_ids) {
      return Fail(name + ": tokens " + Text(got.token_ids) + ", expected " + Text(want.token_ids));
    }
    if (got.text != want.text) Fail(name + ": text \"" + got.text + "\", expected \"" + want.text + "\"");
    if (got.sum_logprob != want.sum_logprob) Fail(name + ": sum_logprob");
    if (got.terminal != want.terminal) Fail(name + ": terminal");
    if (got.finish_reason != want.finish_reason) {
      Fail(name + ": finish reason " + std::to_string(static_cast<int>(got.finish_reason)) + ", expected " +
           std::to_string(static_cast<int>(want.finish_reason)));
    }
    if (streamed.token_ids != want.token_ids) Fail(name + ": tokens of deltas " + Text(streamed.token_ids));
    if (streamed.text != want.text) Fail(name + ": text of deltas \"" + streamed.text + "\"");
    if (streamed.logprobs != want.logprobs) Fail(name + ": log-probabilities");
    if (!SameTop(streamed.top_logprobs, want.top_logprobs)) Fail(name + ": top log-probabilities");
    if (streamed.parent != got.parent || streamed.node != got.node) Fail(name + ": delta's parent or node");
    if (streamed.finish_reason != want.finish_reason && want.finish_reason != FinishReason::kPruned) {
      Fail(name + ": finish reason of deltas");
    }
  }

  void CompareSelection(const NaiveResult& naive, const NaiveSelection& want) {
    const std::string name = "selection at node " + std::to_string(want.node);
    const auto got = selected_.find(want.node);
    if (got == selected_.end()) return Fail(name + " is missing");
    std::vector<int32_t> kept;
    std::vector<int32_t> pruned;
    for (const int32_t index : want.kept) kept.push_back(NumberOf(naive, index));
    for (const int32_t index : want.pruned) pruned.push_back(NumberOf(naive, index));
    if (got->second.kept != kept)
      Fail(name + ": kept " + Text(got->second.kept) + ", expected " + Text(kept));
    if (got->second.pruned != pruned) Fail(name + ": pruned " + Text(got->second.pruned));
    if (got->second.scores.size() != want.scores.size()) return Fail(name + ": scores");
    for (size_t i = 0; i < want.scores.size(); ++i) {
      // Sums of several verdicts may be added up in another order.
      if (got->second.scores[i] != want.scores[i] &&
          !(std::abs(got->second.scores[i] - want.scores[i]) <= 1e-9)) {
        Fail(name + ": score " + std::to_string(got->second.scores[i]) + ", expected " +
             std::to_string(want.scores[i]));
      }
    }
  }

  void CompareUsage(const NaiveResult& naive) {
    int64_t given = 0;
    int64_t generated = 0;
    for (const NaiveBranch& branch : naive.branches) {
      const auto& content = request_.nodes[static_cast<size_t>(branch.node)].content;
      const bool is_given = std::holds_alternative<GivenSpec>(content);
      (is_given ? given : generated) += static_cast<int64_t>(branch.token_ids.size());
    }
    const TreeUsage& usage = finished_.usage;
    if (usage.prompt_tokens != given) Fail("prompt_tokens: " + std::to_string(usage.prompt_tokens));
    if (usage.generated_tokens != generated)
      Fail("generated_tokens: " + std::to_string(usage.generated_tokens));
    if (usage.cached_tokens < 0 || usage.cached_tokens > given) {
      Fail("cached_tokens: " + std::to_string(usage.cached_tokens));
    }
    if (usage.computed_tokens <= 0) Fail("computed_tokens: " + std::to_string(usage.computed_tokens));
    if (usage.kv_read_bytes_sequence < usage.kv_read_bytes) Fail("flatten reads more than sequence");
  }

  const TreeRequest& request_;
  std::string problem_;
  uint64_t last_step_ = 0;
  std::map<int32_t, Streamed> streamed_;
  std::map<int32_t, TreeSelected> selected_;
  TreeFinished finished_;
  std::map<std::pair<int32_t, int32_t>, std::vector<int32_t>> ranked_;  // (parent, node) -> numbers
  std::map<std::pair<int32_t, int32_t>, size_t> next_rank_;
  std::vector<int32_t> numbers_;  // by index
};

}  // namespace

std::string CompareWithNaive(const TreeRequest& request, const std::vector<TreeEvent>& events,
                             const FakeModel& model, const Tokenizer* tokenizer) {
  return Comparison(request, events).Run(model, tokenizer);
}

}  // namespace espalier::test
