#include "tests/engine/fakes/naive_tree.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "engine/random_stream.h"
#include "engine/select.h"
#include "tests/engine/fakes/fake_tokenizer.h"

namespace espalier::test {
namespace {

class NaiveTree {
 public:
  NaiveTree(const TreeRequest& request, const FakeModel& model, const Tokenizer* tokenizer,
            const NumberOf& number_of)
      : request_(request),
        model_(model),
        tokenizer_(tokenizer),
        number_of_(number_of),
        first_ordinals_(FirstOrdinals(request)),
        at_node_(request.nodes.size()) {}

  NaiveResult Run() {
    for (size_t node = 0; node < request_.nodes.size(); ++node) {
      const TreeNodeSpec& spec = request_.nodes[node];
      if (const auto* select = std::get_if<SelectSpec>(&spec.content)) {
        Resolve(static_cast<int32_t>(node), *select);
        continue;
      }
      std::vector<int32_t> parents = {-1};
      if (spec.parent >= 0) parents = at_node_[static_cast<size_t>(spec.parent)];
      for (const int32_t parent : parents) Expand(static_cast<int32_t>(node), parent);
    }
    MarkPruned();
    return std::move(result_);
  }

 private:
  NaiveBranch& branch(int32_t index) { return result_.branches[static_cast<size_t>(index)]; }

  void Expand(int32_t node, int32_t parent) {
    const auto& content = request_.nodes[static_cast<size_t>(node)].content;
    const auto* generate = std::get_if<GenerateSpec>(&content);
    const int32_t count = generate != nullptr ? generate->branches : 1;
    for (int32_t i = 0; i < count; ++i) {
      NaiveBranch child;
      if (parent >= 0) {
        child = branch(parent);
        branch(parent).terminal = false;
        child.stream = ChildStream(branch(parent).stream, first_ordinals_[static_cast<size_t>(node)] + i);
        if (count > 1) child.group = parent;
      } else {
        child.stream = RootStream(request_.seed);
      }
      child.node = node;
      child.parent = parent;
      child.token_ids.clear();
      child.logprobs.clear();
      child.top_logprobs.clear();
      child.text.clear();
      child.finish_reason = FinishReason::kNone;
      child.terminal = true;
      if (child.ends) {
        child.finish_reason = FinishReason::kError;
      } else if (generate != nullptr) {
        Generate(*generate, &child);
      } else {
        Give(std::get<GivenSpec>(content), &child);
      }
      at_node_[static_cast<size_t>(node)].push_back(static_cast<int32_t>(result_.branches.size()));
      result_.branches.push_back(std::move(child));
    }
  }

  void Give(const GivenSpec& given, NaiveBranch* child) {
    double verdict = 0.0;
    for (const int32_t token : given.token_ids) {
      if (given.score) {
        const TokenResult score =
            model_.Score(model_.Logits(FakeModel::StateOf(child->path)), token, given.top_logprobs);
        verdict += static_cast<double>(score.logprob);
        if (score.failed()) child->finish_reason = FinishReason::kError;
        Take(score, given.top_logprobs, child);
      }
      child->path.push_back(token);
      child->token_ids.push_back(token);
    }
    if (given.score) {
      child->latest_verdict = verdict;
      child->sum_verdicts += verdict;
    }
    if (child->finish_reason == FinishReason::kError) {
      child->failed = true;
      child->logprobs.clear();
      child->top_logprobs.clear();
    }
    if (tokenizer_ != nullptr) child->text = TextOf(*tokenizer_, given.token_ids, child->parent < 0, {}).text;
  }

  void Take(const TokenResult& token, int32_t top_logprobs, NaiveBranch* child) {
    child->logprobs.push_back(token.logprob);
    if (top_logprobs > 0) child->top_logprobs.push_back(token.top_logprobs);
  }

  void Generate(const GenerateSpec& spec, NaiveBranch* child) {
    while (child->finish_reason == FinishReason::kNone) {
      FakeHistory history;
      history.generated_tokens = child->generated;
      if (spec.sampling.UsesHistory()) history.prompt_tokens = GivenTokens(*child);
      const TokenResult sampled =
          model_.Sample(model_.Logits(FakeModel::StateOf(child->path)), spec.sampling, history, child->stream,
                        static_cast<int32_t>(child->path.size()), spec.top_logprobs);
      if (sampled.failed()) {
        child->failed = child->ends = true;
        child->finish_reason = FinishReason::kError;
        break;
      }
      Take(sampled, spec.top_logprobs, child);
      child->sum_logprob += static_cast<double>(sampled.logprob);
      child->path.push_back(sampled.token_id);
      child->generated.push_back(sampled.token_id);
      child->token_ids.push_back(sampled.token_id);
      child->finish_reason = Finish(spec, *child);
    }
    if (tokenizer_ == nullptr) return;
    std::vector<int32_t> text_tokens = child->token_ids;
    if (child->finish_reason == FinishReason::kStopToken) text_tokens.pop_back();
    child->text = TextOf(*tokenizer_, text_tokens, false, spec.stop_strings).text;
  }

  FinishReason Finish(const GenerateSpec& spec, const NaiveBranch& child) const {
    const int32_t token = child.token_ids.back();
    const auto& eos = model_.options().eos_token_ids;
    const bool is_eos = !spec.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end();
    const auto& stops = spec.stop_token_ids;
    if (is_eos || std::find(stops.begin(), stops.end(), token) != stops.end())
      return FinishReason::kStopToken;
    if (tokenizer_ != nullptr && TextOf(*tokenizer_, child.token_ids, false, spec.stop_strings).stopped) {
      return FinishReason::kStopString;
    }
    const bool full = static_cast<int32_t>(child.token_ids.size()) == spec.max_new_tokens;
    return full ? FinishReason::kMaxTokens : FinishReason::kNone;
  }

  // Tokens of the path that were not generated, in any order.
  static std::vector<int32_t> GivenTokens(const NaiveBranch& child) {
    std::multiset<int32_t> left(child.path.begin(), child.path.end());
    for (const int32_t token : child.generated) left.erase(left.find(token));
    return {left.begin(), left.end()};
  }

  void Resolve(int32_t node, const SelectSpec& spec) {
    std::vector<SelectCandidate> candidates;
    std::map<int32_t, int32_t> index_of;  // by number
    for (const int32_t index :
         at_node_[static_cast<size_t>(request_.nodes[static_cast<size_t>(node)].parent)]) {
      const NaiveBranch& b = branch(index);
      const int32_t number = number_of_(result_, index);
      index_of[number] = index;
      candidates.push_back({number, b.group, b.sum_logprob, static_cast<int64_t>(b.generated.size()),
                            b.latest_verdict, b.sum_verdicts, b.failed});
    }
    const SelectOutcome outcome = Select(spec, candidates);
    NaiveSelection selection;
    selection.node = node;
    selection.scores = outcome.scores;
    for (const int32_t number : outcome.kept) selection.kept.push_back(index_of.at(number));
    for (const int32_t number : outcome.pruned) selection.pruned.push_back(index_of.at(number));
    std::vector<int32_t>& kept = at_node_[static_cast<size_t>(node)];
    kept = selection.kept;
    std::sort(kept.begin(), kept.end());
    result_.selections.push_back(std::move(selection));
  }

  void MarkPruned() {
    for (const NaiveSelection& selection : result_.selections) {
      for (const int32_t index : selection.pruned) {
        NaiveBranch& pruned = branch(index);
        if (pruned.terminal && pruned.finish_reason != FinishReason::kError)
          pruned.finish_reason = FinishReason::kPruned;
      }
    }
  }

  const TreeRequest& request_;
  const FakeModel& model_;
  const Tokenizer* tokenizer_;
  const NumberOf& number_of_;
  std::vector<int32_t> first_ordinals_;
  std::vector<std::vector<int32_t>> at_node_;  // indices of branches; of a select: those it keeps
  NaiveResult result_;
};

}  // namespace

NaiveResult RunNaiveTree(const TreeRequest& request, const FakeModel& model, const Tokenizer* tokenizer,
                         const NumberOf& number_of) {
  return NaiveTree(request, model, tokenizer, number_of).Run();
}

namespace {

// The rows of one token are distinguished by the branch whose tokens they are; those of given branches by
// what they continue and the tokens since.
class NaiveRowCount {
 public:
  NaiveRowCount(const TreeRequest& request, const NaiveResult& result) : request_(request), result_(result) {}

  int64_t Run() {
    for (int32_t index = 0; index < static_cast<int32_t>(result_.branches.size()); ++index) {
      const NaiveBranch& branch = At(index);
      const size_t size = branch.token_ids.size();
      const GivenSpec* given = Given(index);
      if (given == nullptr || given->score) {
        Need(branch.parent, SIZE_MAX);
        Need(index, size - 1);
      } else if (branch.terminal) {
        Need(index, size);
      }
    }
    return static_cast<int64_t>(needed_.size());
  }

 private:
  // A generated branch and a position; or -2 - the branch that is continued (-1: none), and tokens.
  using Row = std::pair<int32_t, std::vector<int32_t>>;

  const NaiveBranch& At(int32_t index) const { return result_.branches[static_cast<size_t>(index)]; }
  const GivenSpec* Given(int32_t index) const {
    return std::get_if<GivenSpec>(&request_.nodes[static_cast<size_t>(At(index).node)].content);
  }

  void Need(int32_t index, size_t tokens) {
    for (; index >= 0; index = At(index).parent, tokens = SIZE_MAX) {
      int32_t continued = index;
      size_t begin = 0;
      if (Given(index) != nullptr) {
        while (continued >= 0 && Given(continued) != nullptr) continued = At(continued).parent;
        if (continued >= 0) begin = At(continued).path.size();
      }
      const std::vector<int32_t>& path = At(index).path;
      const size_t first = path.size() - At(index).token_ids.size();
      const size_t end = first + std::min(tokens, At(index).token_ids.size());
      for (size_t i = first; i < end; ++i) {
        if (Given(index) == nullptr) {
          needed_.insert({index, {static_cast<int32_t>(i)}});
        } else {
          needed_.insert(
              {-2 - continued,
               {path.begin() + static_cast<ptrdiff_t>(begin), path.begin() + static_cast<ptrdiff_t>(i) + 1}});
        }
      }
    }
  }

  const TreeRequest& request_;
  const NaiveResult& result_;
  std::set<Row> needed_;
};

}  // namespace

int64_t NaiveRows(const TreeRequest& request, const NaiveResult& result) {
  return NaiveRowCount(request, result).Run();
}

}  // namespace espalier::test
