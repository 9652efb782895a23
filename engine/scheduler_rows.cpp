#include <algorithm>
#include <unordered_map>
#include <utility>

#include "engine/row_shares.h"
#include "engine/scheduler_impl.h"

// Who gets the rows of a step: whose turn it is, and how rows are shared among peers and requests.

namespace espalier {

// Whether one more request gets rows when so many run and want so many. Where steps are full, it makes all
// others slower, finishes no earlier itself, and cuts what each gains in a step into slivers. A quarter more
// than a step holds: some prefill while others decode, and some end. A few requests always run side by side,
// whatever they want, so that small ones do not wait for the end of large ones.
bool Scheduler::Impl::HasRowsToSpare(int32_t requests, int64_t rows_wanted) const {
  constexpr int32_t kSideBySide = 32;
  const int64_t rows = options_.engine.max_batch_rows;
  return requests < kSideBySide || rows_wanted < rows + rows / 4;
}

// Whether the requests that come before it leave it rows.
bool Scheduler::Impl::HasTurn(const Request& request) const {
  const std::pair place(peers_.running(request.peer), request.id);
  int32_t before = 0;
  int64_t rows_wanted = 0;
  for (const Turn& turn : turns_) {
    if (std::pair(turn.rank, turn.id) > place) continue;
    ++before;
    rows_wanted += turn.rows;
  }
  return HasRowsToSpare(before, rows_wanted);
}

// Admitted requests in the order of turns.
std::vector<Scheduler::Impl::Turn> Scheduler::Impl::InOrderOfTurns() const {
  std::vector<Turn> turns;
  std::unordered_map<int32_t, int32_t> next_rank;  // by peers
  size_t admitted = requests_.size() - static_cast<size_t>(peers_.waiting());
  for (auto it = requests_.begin(); admitted > 0; ++it) {
    Request& request = *it->second;
    if (!request.admitted) continue;
    --admitted;
    const int32_t rank = next_rank.try_emplace(request.peer, peers_.unread(request.peer)).first->second++;
    turns.push_back({rank, request.id, &request, 0});
  }
  std::stable_sort(turns.begin(), turns.end(), [](const Turn& a, const Turn& b) { return a.rank < b.rank; });
  return turns;
}

// Those that found no blocks in the last step, and may take them from others, do so before the others take
// more: the oldest request before the rest of them.
std::array<std::vector<Scheduler::Impl::Candidate>, Scheduler::Impl::kUrgencies> Scheduler::Impl::ByUrgency(
    const std::vector<Candidate>& candidates) const {
  std::array<std::vector<Candidate>, kUrgencies> sorted;
  const Request* oldest = OldestAdmitted();
  for (const Candidate& candidate : candidates)
    sorted[!candidate.request->comes_first ? 2 : candidate.request == oldest ? 0 : 1].push_back(candidate);
  return sorted;
}

// Branches with rows to issue: in the order of turns, then by number. Where those before it leave no rows to
// spare, a request waits once its first tokens are drawn.
void Scheduler::Impl::CollectCandidates(std::vector<Candidate>* decode, std::vector<Candidate>* prefill) {
  turns_.clear();
  int32_t decoding = 0;  // requests
  const Request* oldest = OldestAdmitted();
  for (const Turn& turn : InOrderOfTurns()) {
    Request& request = *turn.request;
    turns_.push_back(turn);
    const bool has_turn = HasRowsToSpare(decoding, static_cast<int64_t>(decode->size()));
    if (request.drew && !has_turn && &request != oldest) continue;
    if (request.drew) ++decoding;
    std::erase_if(request.work, [&](int32_t number) {
      Branch& branch = request.tree.branch(number);
      branch.listed = Wants(request.tree, branch);
      return !branch.listed;
    });
    if (!request.work_sorted) std::sort(request.work.begin(), request.work.end());
    request.work_sorted = true;
    const int64_t wanted = static_cast<int64_t>(request.work.size());
    turns_.back().rows = request.drew ? wanted : std::max<int64_t>(wanted, request.first_rows);
    request.running = 0;
    request.no_room = false;
    for (const int32_t number : request.work) {
      Branch& branch = request.tree.branch(number);
      if (branch.leaf >= 0) ++request.running;
      (IsDecode(request, branch) ? decode : prefill)->push_back({&request, &branch});
    }
  }
}

// One row, whose path is there: a row that is needed for the next token, not one of many to get there.
bool Scheduler::Impl::IsDecode(const Request& request, const Branch& branch) const {
  if (branch.leaf < 0) {
    if (branch.work != BranchWork::kDecode || branch.source < 0) return false;
    const Branch& source = request.tree.branch(branch.source);
    return branch.drawn == 1 && source.leaf >= 0;
  }
  const KvNode& leaf = tree_.node(branch.leaf);
  return branch.path_issued && leaf.end_position() - leaf.issued_end() <= 1;
}

// Cuts the candidates down to `rows`, shared among peers and then among the requests of each as ShareRows
// says; within a request those come first that have waited longest. Returns the others.
std::vector<Scheduler::Impl::Candidate> Scheduler::Impl::LimitDecode(std::vector<Candidate>* decode,
                                                                     int32_t rows) {
  if (static_cast<int32_t>(decode->size()) <= rows) return {};
  const std::vector<Group> groups = GroupByRequest(decode);
  const std::vector<std::vector<size_t>> peers = GroupByPeer(groups);
  std::vector<size_t> wanted;  // by peers
  for (const std::vector<size_t>& members : peers) {
    wanted.push_back(0);
    for (const size_t member : members) wanted.back() += groups[member].size();
  }
  const std::vector<size_t> shares = ShareRows(wanted, static_cast<size_t>(std::max(rows, 0)));
  std::vector<size_t> cuts(groups.size());
  for (size_t peer = 0; peer < peers.size(); ++peer) {
    std::vector<size_t> sizes;
    for (const size_t member : peers[peer]) sizes.push_back(groups[member].size());
    const std::vector<size_t> parts = wanted[peer] > shares[peer] ? ShareRows(sizes, shares[peer]) : sizes;
    for (size_t i = 0; i < parts.size(); ++i) cuts[peers[peer][i]] = parts[i];
  }
  std::vector<Candidate> kept;
  std::vector<Candidate> rest;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& group = groups[i];
    std::stable_sort(group.begin(), group.end(), [](const Candidate& a, const Candidate& b) {
      return a.branch->last_step < b.branch->last_step;
    });
    kept.insert(kept.end(), group.begin(), group.begin() + static_cast<ptrdiff_t>(cuts[i]));
    rest.insert(rest.end(), group.begin() + static_cast<ptrdiff_t>(cuts[i]), group.end());
  }
  *decode = std::move(kept);
  return rest;
}

// One row. Where the path has to be opened anew, the others follow as prefill.
void Scheduler::Impl::IssueDecode(const Candidate& candidate, int32_t budget, StepDraft* draft) {
  const IssuedRows issued = IssueBranch(candidate, std::min(budget, 1), draft);
  if (!issued.complete && issued.rows > 0) NotePrefill(candidate, draft);
}

// Divides the rows among the peers and then among the requests of each, so that none waits for the whole
// prompt of another; within a request in the order of its branches, which share what comes first on their
// paths.
int32_t Scheduler::Impl::IssuePrefill(std::vector<Candidate>* prefill, int32_t rows, StepDraft* draft) {
  std::vector<Group> left = GroupByRequest(prefill);
  const std::vector<std::vector<size_t>> peers = GroupByPeer(left);
  std::vector<const Candidate*> incomplete(left.size());  // the first that has rows and wants more
  const auto take = [&](size_t i, int32_t most) {
    int32_t taken = 0;
    while (!left[i].empty() && taken < most) {
      const Candidate& candidate = left[i].front();
      const IssuedRows issued = IssueBranch(candidate, most - taken, draft);
      taken += issued.rows;
      if (issued.complete && incomplete[i] == &candidate) incomplete[i] = nullptr;
      if (!issued.complete && issued.rows > 0 && incomplete[i] == nullptr) incomplete[i] = &candidate;
      if (!issued.complete && taken == most) break;  // goes on with the next rows that the request gets
      left[i] = left[i].subspan(1);
    }
    return taken;
  };
  std::vector<std::vector<uint64_t>> served(peers.size());  // by peers and their requests
  std::vector<uint64_t> peers_served;
  for (size_t peer = 0; peer < peers.size(); ++peer) {
    for (const size_t member : peers[peer]) served[peer].push_back(left[member].front().request->last_step);
    peers_served.push_back(*std::max_element(served[peer].begin(), served[peer].end()));
  }
  const int32_t issued = ShareOut(peers_served, rows, [&](size_t peer, int32_t most) {
    return ShareOut(served[peer], most, [&](size_t i, int32_t part) { return take(peers[peer][i], part); });
  });
  for (const Candidate* candidate : incomplete) {
    if (candidate != nullptr && candidate->branch->leaf >= 0) NotePrefill(*candidate, draft);
  }
  return issued;
}

// The candidates of each request; those of one stand together.
std::vector<Scheduler::Impl::Group> Scheduler::Impl::GroupByRequest(std::vector<Candidate>* candidates) {
  std::vector<Group> groups;
  for (size_t begin = 0, end = 0; begin < candidates->size(); begin = end) {
    while (end < candidates->size() && (*candidates)[end].request == (*candidates)[begin].request) ++end;
    groups.emplace_back(candidates->data() + begin, end - begin);
  }
  return groups;
}

// Indices of groups, for each peer in the order in which the peers come up.
std::vector<std::vector<size_t>> Scheduler::Impl::GroupByPeer(const std::vector<Group>& groups) {
  std::vector<std::vector<size_t>> peers;
  std::unordered_map<int32_t, size_t> index_of;
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto [found, added] = index_of.try_emplace(groups[i].front().request->peer, peers.size());
    if (added) peers.emplace_back();
    peers[found->second].push_back(i);
  }
  return peers;
}

}  // namespace espalier
