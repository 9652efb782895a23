#include "engine/row_scheduler.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "engine/row_shares.h"

namespace espalier {

void RowScheduler::FillStep() {
  CollectCandidates();
  const int32_t max_rows = options_.engine.max_batch_rows;
  const int32_t chunk = std::min(options_.engine.prefill_chunk_tokens, max_rows);
  // Where decode rows would fill the step, a part is kept for prefill.
  const auto reserve = static_cast<int32_t>(max_rows * policy_.prefill_reserve);
  const int32_t kept = prefill_.empty() ? 0 : std::min(chunk, std::max(reserve, max_rows > 1 ? 1 : 0));
  const Candidates rest = LimitDecode(max_rows - kept);
  PrefillBudget budget = BudgetForPrefill();
  const int32_t units = budget.units_left();
  auto pending = static_cast<int32_t>(decode_.size());
  std::array<Candidates, kUrgencies> decode = ByUrgency(decode_);
  std::array<Candidates, kUrgencies> prefill = ByUrgency(prefill_);
  for (size_t i = 0; i < kUrgencies; ++i) {
    pending -= static_cast<int32_t>(decode[i].size());
    for (const Candidate& candidate : decode[i]) IssueRow(candidate);
    IssuePrefill(&prefill[i], std::min(budget.units_left(), max_rows - builder_.rows() - pending), &budget);
  }
  if (budget.limits_time() && budget.units_left() == units && builder_.rows() < max_rows) IssueOneRow();
  for (const Candidate& candidate : rest) IssueRow(candidate);
}

// Where those before it leave no rows to spare, a request waits once its first tokens are sampled.
void RowScheduler::CollectCandidates() {
  decode_.clear();
  prefill_.clear();
  int32_t decoding = 0;  // requests
  const ScheduledRequest* first = requests_.FirstAdmitted();
  for (Turns::Turn& turn : turns_.Renew()) {
    ScheduledRequest& request = *turn.request;
    const bool has_sampled = request.issued.has_sampled();
    const bool has_turn = turns_.HasRowsToSpare(decoding, static_cast<int64_t>(decode_.size()));
    if (has_sampled && !has_turn && &request != first) continue;
    if (has_sampled) ++decoding;
    const std::vector<int32_t>& work = tails_.CollectWork(&request);
    const auto wanted = static_cast<int64_t>(work.size());
    turn.rows = has_sampled ? wanted : std::max<int64_t>(wanted, request.first_rows);
    int32_t running = 0;
    for (const int32_t number : work) {
      Sequence& sequence = request.sequence(number);
      if (sequence.tail >= 0) ++running;
      (IsDecode(request, sequence) ? decode_ : prefill_).push_back({&request, &sequence});
    }
    opener_.BeginStep(&request, running);
  }
}

// One row, whose path is there: a row that is needed for the next token, not one of many to get there.
bool RowScheduler::IsDecode(const ScheduledRequest& request, const Sequence& sequence) const {
  if (sequence.tail < 0) {
    if (sequence.work != SequenceWork::kDecode || sequence.source < 0) return false;
    return sequence.sampled == 1 && request.sequence(sequence.source).tail >= 0;
  }
  const KvNode& tail = tails_.kv().node(sequence.tail);
  return sequence.path_issued && tail.end_position() - tail.issued_end() <= 1;
}

// Those that found no blocks in the last step, and may take them from others, do so before the others take
// more: the first request before the rest of them.
std::array<RowScheduler::Candidates, RowScheduler::kUrgencies> RowScheduler::ByUrgency(
    const Candidates& candidates) const {
  std::array<Candidates, kUrgencies> sorted;
  const ScheduledRequest* first = requests_.FirstAdmitted();
  for (const Candidate& candidate : candidates) {
    const bool comes_first = candidate.request->pressure.comes_first();
    sorted[!comes_first ? 2 : candidate.request == first ? 0 : 1].push_back(candidate);
  }
  return sorted;
}

// Cuts the decoding sequences down to `rows`; within a request those come first that have waited longest.
// Returns the others.
RowScheduler::Candidates RowScheduler::LimitDecode(int32_t rows) {
  if (static_cast<int32_t>(decode_.size()) <= rows) return {};
  const std::vector<Group> groups = GroupByRequest(&decode_);
  const std::vector<size_t> cuts = ShareDecodeRows(groups, static_cast<size_t>(std::max(rows, 0)));
  Candidates kept;
  Candidates rest;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& group = groups[i];
    std::stable_sort(group.begin(), group.end(), [](const Candidate& a, const Candidate& b) {
      return a.sequence->last_step < b.sequence->last_step;
    });
    kept.insert(kept.end(), group.begin(), group.begin() + static_cast<ptrdiff_t>(cuts[i]));
    rest.insert(rest.end(), group.begin() + static_cast<ptrdiff_t>(cuts[i]), group.end());
  }
  decode_ = std::move(kept);
  return rest;
}

// How many rows each group gets: shared among peers and then among the requests of each as ShareRows says.
std::vector<size_t> RowScheduler::ShareDecodeRows(const std::vector<Group>& groups, size_t rows) const {
  const auto min_trees = static_cast<size_t>(policy_.min_trees_per_step);
  const std::vector<std::vector<size_t>> peers = GroupByPeer(groups);
  std::vector<size_t> wanted;  // by peers
  for (const std::vector<size_t>& members : peers) {
    wanted.push_back(0);
    for (const size_t member : members) wanted.back() += groups[member].size();
  }
  const std::vector<size_t> shares = ShareRows(wanted, rows, min_trees);
  std::vector<size_t> cuts(groups.size());
  for (size_t peer = 0; peer < peers.size(); ++peer) {
    std::vector<size_t> parts;
    for (const size_t member : peers[peer]) parts.push_back(groups[member].size());
    if (wanted[peer] > shares[peer]) parts = ShareRows(parts, shares[peer], min_trees);
    for (size_t i = 0; i < parts.size(); ++i) cuts[peers[peer][i]] = parts[i];
  }
  return cuts;
}

// Where the path has to be opened anew, or is a prompt's, the others follow as prefill.
void RowScheduler::IssueRow(const Candidate& candidate) {
  const int32_t left = options_.engine.max_batch_rows - builder_.rows();
  const StepBuilder::IssuedRows issued = builder_.Issue(candidate, std::min(left, 1));
  if (!issued.complete && issued.rows > 0) builder_.NotePrefill(candidate);
}

// Rows, and where steps have been measured, time: as much as keeps the step within its length.
PrefillBudget RowScheduler::BudgetForPrefill() const {
  if (prefill_.empty()) return {0, nullptr, {}, 0.0};
  const int32_t max_rows = options_.engine.max_batch_rows;
  const StepCosts* costs = policy_.step_costs;
  StepLoad decoding;
  for (const Candidate& candidate : decode_) decoding += StepLoad::Of(1, candidate.sequence->end_position());
  const bool alone = decode_.empty();
  const int32_t rows = alone ? max_rows : std::min(options_.engine.prefill_chunk_tokens, max_rows);
  if (costs == nullptr || costs->empty()) return {rows, nullptr, decoding, 0.0};
  const double base_us = costs->Estimate(decoding);
  const double max_us =
      alone ? policy_.max_prefill_step_us : std::max(policy_.max_step_ratio * base_us, policy_.free_step_us);
  // At least as long again as the step would be in any case: costs may have been measured in hard times.
  return {rows, costs, decoding, std::max(max_us - base_us, base_us)};
}

// Where the first of the candidate's next rows is.
int32_t RowScheduler::NextPosition(const Candidate& candidate) const {
  const Sequence& sequence = *candidate.sequence;
  if (sequence.tail < 0) return sequence.start_position;
  const KvTree& kv = tails_.kv();
  int32_t position = kv.node(sequence.tail).issued_end();
  if (sequence.path_issued) return position;
  for (int32_t id = kv.node(sequence.tail).parent; id >= 0; id = kv.node(id).parent) {
    if (kv.node(id).issued_tokens < kv.node(id).size()) position = kv.node(id).issued_end();
  }
  return position;
}

// Where every row takes more time than there is, prefill goes on all the same, a row a step: that of the
// request that has waited longest.
void RowScheduler::IssueOneRow() {
  const auto longest =
      std::min_element(prefill_.begin(), prefill_.end(), [](const Candidate& a, const Candidate& b) {
        return a.request->issued.last_step() < b.request->issued.last_step();
      });
  if (longest != prefill_.end()) IssueRow(*longest);
}

// Divides what there is among the peers and then among the requests of each, so that none waits for the whole
// prompt of another; within a request in the order of its sequences, which share what comes first on their
// paths.
void RowScheduler::IssuePrefill(Candidates* prefill, int32_t units, PrefillBudget* budget) {
  std::vector<Group> left = GroupByRequest(prefill);
  const std::vector<std::vector<size_t>> peers = GroupByPeer(left);
  std::vector<const Candidate*> incomplete(left.size());  // the first that has rows and wants more
  const auto take = [&](size_t i, int32_t max) {
    Taken taken;
    while (!left[i].empty() && taken.units < max && !taken.wants_more) {
      const Candidate& candidate = left[i].front();
      const int32_t position = NextPosition(candidate);
      const int32_t rows = budget->RowsFor(max - taken.units, position);
      const StepBuilder::IssuedRows issued = builder_.Issue(candidate, rows);
      taken.units += budget->Charge(position, issued.rows);
      if (issued.complete && incomplete[i] == &candidate) incomplete[i] = nullptr;
      if (!issued.complete && issued.rows > 0 && incomplete[i] == nullptr) incomplete[i] = &candidate;
      // Goes on with what the request gets next.
      taken.wants_more = !issued.complete && issued.rows == rows;
      if (!taken.wants_more) left[i] = left[i].subspan(1);
    }
    taken.wants_more = taken.wants_more || taken.units >= max;
    return taken;
  };
  std::vector<std::vector<uint64_t>> served(peers.size());  // by peers and their requests
  std::vector<uint64_t> peers_served;
  for (size_t peer = 0; peer < peers.size(); ++peer) {
    for (const size_t member : peers[peer])
      served[peer].push_back(left[member].front().request->issued.last_step());
    peers_served.push_back(*std::max_element(served[peer].begin(), served[peer].end()));
  }
  const double even_part = policy_.even_prefill_part;
  ShareOut(peers_served, units, even_part, [&](size_t peer, int32_t max) {
    return ShareOut(served[peer], max, even_part,
                    [&](size_t i, int32_t part) { return take(peers[peer][i], part); });
  });
  for (const Candidate* candidate : incomplete) {
    if (candidate != nullptr && candidate->sequence->tail >= 0) builder_.NotePrefill(*candidate);
  }
}

// The candidates of each request; those of one stand together.
std::vector<RowScheduler::Group> RowScheduler::GroupByRequest(Candidates* candidates) {
  std::vector<Group> groups;
  for (size_t begin = 0, end = 0; begin < candidates->size(); begin = end) {
    while (end < candidates->size() && (*candidates)[end].request == (*candidates)[begin].request) ++end;
    groups.emplace_back(candidates->data() + begin, end - begin);
  }
  return groups;
}

// Indices of groups, for each peer in the order in which the peers come up.
std::vector<std::vector<size_t>> RowScheduler::GroupByPeer(const std::vector<Group>& groups) {
  std::vector<std::vector<size_t>> peers;
  std::unordered_map<int32_t, size_t> index_of;
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto [found, added] = index_of.try_emplace(groups[i].front().request->peer(), peers.size());
    if (added) peers.emplace_back();
    peers[found->second].push_back(i);
  }
  return peers;
}

}  // namespace espalier
