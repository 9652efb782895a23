#include "tests/bench/serve_check.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier::bench {

namespace {

bool Generated(const v1::GenerateRequest& request, int32_t node) {
  return request.nodes(node).has_generate();
}

// Branches that each node must have, if every one of them came to be.
std::vector<int64_t> ExpectedInstances(const v1::GenerateRequest& request) {
  std::vector<int64_t> instances;
  for (const v1::TreeNode& node : request.nodes()) {
    int64_t of_parent = 1;
    for (size_t i = 0; i < instances.size(); ++i) {
      if (request.nodes(static_cast<int>(i)).id() == node.parent_id()) of_parent = instances[i];
    }
    if (node.has_generate()) of_parent *= std::max(node.generate().branches(), 1);
    if (node.has_select()) of_parent = std::min<int64_t>(node.select().keep(), of_parent);
    instances.push_back(of_parent);
  }
  return instances;
}

std::string Differs(const std::string& what, int64_t got, int64_t expected) {
  return what + ": " + std::to_string(got) + " instead of " + std::to_string(expected);
}

}  // namespace

StreamCheck::StreamCheck(const v1::GenerateRequest* request) : request_(request) {}

int32_t StreamCheck::NodeOf(const std::string& id) const {
  for (int32_t i = 0; i < request_->nodes_size(); ++i) {
    if (request_->nodes(i).id() == id) return i;
  }
  return -1;
}

bool StreamCheck::Take(v1::GenerateResponse event) {
  if (ended_ && fault_.empty()) fault_ = "an event after the last one";
  if ((events_++ == 0) != event.has_started() && fault_.empty()) fault_ = "'started' is not the first event";
  bool generated = false;
  switch (event.event_case()) {
    case v1::GenerateResponse::kStarted:
      started_ = event.started();
      break;
    case v1::GenerateResponse::kDelta:
      TakeDelta(event.delta(), &generated);
      break;
    case v1::GenerateResponse::kSelected:
      ++selections_;
      break;
    case v1::GenerateResponse::kFinished:
      finished_ = std::move(*event.mutable_finished());
      answer_.usage = finished_.usage();
      ended_ = true;
      break;
    default:
      break;
  }
  return generated;
}

void StreamCheck::TakeDelta(const v1::TreeDelta& delta, bool* generated) {
  for (const v1::BranchDelta& branch : delta.branches()) {
    const auto number = static_cast<size_t>(branch.branch());
    if (number >= delivered_.size()) delivered_.resize(number + 1);
    Delivered& so_far = delivered_[number];
    so_far.node = NodeOf(branch.node_id());
    if (so_far.node < 0) {
      if (fault_.empty()) fault_ = "a delta of the unknown node '" + branch.node_id() + "'";
      return;
    }
    so_far.token_ids.insert(so_far.token_ids.end(), branch.token_ids().begin(), branch.token_ids().end());
    so_far.text += branch.text();
    if (branch.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) so_far.reason = branch.finish_reason();
    if (branch.logprobs_size() != branch.token_ids_size() &&
        (Generated(*request_, so_far.node) || request_->nodes(so_far.node).given().score()) && fault_.empty())
      fault_ = "tokens without log-probabilities";
    if (!Generated(*request_, so_far.node) || branch.token_ids().empty()) continue;
    *generated = true;
    answer_.output_tokens += branch.token_ids_size();
  }
}

std::string StreamCheck::Fault() {
  if (!fault_.empty()) return fault_;
  if (!ended_) return "the stream ended without 'finished'";
  CountLongestPath();
  return FinalFault();
}

std::string StreamCheck::FinalFault() const {
  if (std::string fault = CountFault(); !fault.empty()) return fault;
  for (const v1::Branch& branch : finished_.branches()) {
    const std::string fault = BranchFault(branch);
    if (!fault.empty()) return "branch " + std::to_string(branch.branch()) + ": " + fault;
  }
  return UsageFault();
}

std::string StreamCheck::CountFault() const {
  const std::vector<int64_t> expected = ExpectedInstances(*request_);
  std::vector<int64_t> got(expected.size());
  got[0] = 1;
  int32_t selects = 0;
  for (const v1::Branch& branch : finished_.branches()) {
    const int32_t node = branch.node_path().empty() ? -1 : NodeOf(*branch.node_path().rbegin());
    if (node < 0) return "branch " + std::to_string(branch.branch()) + ": an unknown node";
    ++got[static_cast<size_t>(node)];
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const v1::TreeNode& node = request_->nodes(static_cast<int>(i));
    if (node.has_select()) {
      ++selects;
    } else if (got[i] != expected[i]) {
      return Differs("branches of node '" + node.id() + "'", got[i], expected[i]);
    }
  }
  return selections_ == selects ? "" : Differs("selections", selections_, selects);
}

std::string StreamCheck::BranchFault(const v1::Branch& branch) const {
  const auto number = static_cast<size_t>(branch.branch());
  if (number >= delivered_.size() || delivered_[number].node < 0) return "no delta reported it";
  const Delivered& delivered = delivered_[number];
  const bool same_tokens = std::equal(delivered.token_ids.begin(), delivered.token_ids.end(),
                                      branch.token_ids().begin(), branch.token_ids().end());
  if (!same_tokens) return "its tokens differ from those of the deltas";
  if (delivered.text != branch.text()) return "its text differs from that of the deltas";
  if (!Generated(*request_, delivered.node)) return "";
  if (delivered.reason == v1::FINISH_REASON_UNSPECIFIED) return "its end was not reported";
  if (branch.finish_reason() == v1::FINISH_REASON_UNSPECIFIED ||
      branch.finish_reason() == v1::FINISH_REASON_CANCELLED)
    return "it did not end well";
  if (branch.token_ids().empty()) return "no tokens";
  if (delivered.reason == v1::FINISH_REASON_MAX_TOKENS && branch.text().empty()) return "no text";
  return "";
}

std::string StreamCheck::UsageFault() const {
  const v1::Usage& usage = finished_.usage();
  int64_t given = started_.prompt_tokens();
  for (const Delivered& branch : delivered_) {
    if (branch.node >= 0 && !Generated(*request_, branch.node))
      given += static_cast<int64_t>(branch.token_ids.size());
  }
  if (usage.generated_tokens() != answer_.output_tokens)
    return Differs("usage.generated_tokens", usage.generated_tokens(), answer_.output_tokens);
  if (usage.prompt_tokens() != given) return Differs("usage.prompt_tokens", usage.prompt_tokens(), given);
  if (usage.cached_tokens() > given) return Differs("usage.cached_tokens", usage.cached_tokens(), given);
  return "";
}

void StreamCheck::CountLongestPath() {
  std::vector<int64_t> tokens(delivered_.size() + 1);
  for (const v1::Branch& branch : finished_.branches()) {  // parents first
    const auto number = static_cast<size_t>(branch.branch());
    const auto parent = static_cast<size_t>(branch.parent_branch());
    if (number >= delivered_.size() || parent >= number || delivered_[number].node < 0) continue;
    const bool generated = Generated(*request_, delivered_[number].node);
    tokens[number] = tokens[parent] + (generated ? branch.token_ids_size() : 0);
    answer_.longest_path_tokens = std::max(answer_.longest_path_tokens, tokens[number]);
  }
}

std::string ScoreFault(const v1::ScoreRequest& request, const v1::ScoreResponse& response) {
  if (response.scores_size() != request.continuations_size())
    return Differs("scores", response.scores_size(), request.continuations_size());
  for (int i = 0; i < response.scores_size(); ++i) {
    const v1::ContinuationScore& score = response.scores(i);
    if (score.logprobs_size() != request.continuations(i).ids_size())
      return Differs("log-probabilities of a continuation", score.logprobs_size(),
                     request.continuations(i).ids_size());
    const bool sound = std::all_of(score.logprobs().begin(), score.logprobs().end(),
                                   [](float logprob) { return std::isfinite(logprob) && logprob <= 0.0F; });
    if (!sound) return "a log-probability that is none";
  }
  return "";
}

}  // namespace espalier::bench
