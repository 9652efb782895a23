#pragma once

// Private to engine/scheduler*.cpp.

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/block_allocator.h"
#include "engine/branch.h"
#include "engine/kv_tree.h"
#include "engine/peer_shares.h"
#include "engine/request_tree.h"
#include "engine/scheduler.h"

namespace espalier {

// A request from Submit to its last event.
struct ScheduledRequest {
  ScheduledRequest(TreeRequest request, const TreeContext* context) : tree(std::move(request), context) {}

  uint64_t id = 0;
  RequestTree tree;
  int32_t space = -1;           // cache namespace
  int32_t peer = -1;            // handle of PeerShares
  bool started = false;         // TreeStarted is out
  bool admitted = false;        // may hold leaves
  std::set<int32_t> in_memory;  // branches with a leaf
  int32_t wanted_blocks = 0;    // blocks to wait for before it is admitted
  bool drew = false;            // a first token has been drawn
  int32_t first_rows = 1;       // rows that it will want a step, before that
  uint64_t last_step = 0;       // the last step with a row of it
  bool no_room = false;         // a branch was denied a leaf; of the step being planned
  bool comes_first = false;     // found no blocks in the last step, and may take them from others
  uint64_t counted_step = 0;    // the last step in usage.steps
  int32_t running = 0;          // branches with rows to issue and a leaf; of the step being planned
  std::vector<int32_t> work;    // branches that may want rows, by number
  bool work_sorted = true;
  std::vector<BranchDelta> deltas;  // of the step being committed
  std::vector<int32_t> delta_of;    // [branches] index into deltas, -1: none
  std::vector<int32_t> reconsider;  // branches whose leaf may have become needless
  bool changed = false;             // has something to report in the commit at hand
  TreeUsage usage;
  double kv_read_bytes = 0.0;  // shares, rounded at the end
  double kv_read_bytes_sequence = 0.0;
};

// What the commit of a step needs to know: whose its samples and scores are.
struct StepRecord {
  struct Target {
    uint64_t request = 0;
    int32_t branch = 0;
  };
  struct Share {
    uint64_t request = 0;
    int64_t weight = 0;  // tokens that the request's rows see
  };
  uint64_t step_id = 0;
  std::vector<Target> samples;
  std::vector<Target> scores;
  std::vector<Target> reads;  // runs that are complete with this step, and unscored given tips
  struct Prefill {
    uint64_t request = 0;
    TreeProgress progress;
  };
  std::vector<Prefill> prefills;  // paths that are incomplete after this step
  std::vector<Share> shares;
  int64_t total_weight = 0;
  PlanAccounting accounting;
};

// A step while it is planned.
struct StepDraft {
  std::shared_ptr<StepInput> input;
  StepMemory memory;
  StepRecord record;
  int32_t rows = 0;

  // Rows whose logits are used, or whose token only the device knows; as (node, position) until rows have
  // numbers.
  struct SampleUse {
    int32_t node = 0;
    int32_t position = 0;
  };
  std::vector<SampleUse> sample_uses;  // as input->samples
  std::vector<SampleUse> score_uses;   // as input->scores
  struct SlotUse {
    int32_t node = 0;
    int32_t position = 0;
    int32_t slot = 0;
  };
  std::vector<SlotUse> slot_uses;
};

class Scheduler::Impl {
 public:
  Impl(SchedulerOptions options, std::shared_ptr<const Tokenizer> tokenizer);

  std::shared_ptr<ScheduledRequest> Prepare(TreeRequest request) const;
  void Submit(uint64_t id, std::shared_ptr<ScheduledRequest> submitted);
  void Abort(uint64_t id, const Error& reason);
  void FailAll(const Error& error);
  std::shared_ptr<const StepInput> Next();
  void Commit(const StepResult& result);
  std::vector<RequestEvent> TakeEvents() { return std::exchange(events_, {}); }
  int32_t steps_in_flight() const { return static_cast<int32_t>(in_flight_.size()); }
  bool growing() const { return growing_ && !requests_.empty(); }
  bool idle() const { return requests_.empty(); }
  void SetUnread(const std::string& peer, int32_t answers) { peers_.SetUnread(peer, answers); }
  EngineStats Stats() const;
  TreeSnapshot Snapshot() const;
  void SetAttentionMode(AttentionMode mode) { options_.plan.mode = mode; }
  int32_t FlushCache();
  std::vector<int32_t> FreeBlocks() const { return allocator_.free_list(); }
  Status CheckInvariants() const { return tree_.Check(); }

 private:
  using Request = ScheduledRequest;
  using Requests = std::map<uint64_t, std::shared_ptr<Request>>;  // by id: oldest first

  // Candidates and branches that a tree may take up at one time, see RequestTree::Grow. A few milliseconds.
  static constexpr int64_t kGrowBudget = 4096;

  // A place in the order in which requests get rows: the first request of each peer, then the second of each,
  // and so on; by age where that is equal.
  struct Turn {
    int32_t rank = 0;  // among the requests of its peer
    uint64_t id = 0;
    Request* request = nullptr;  // while the step is planned
    int64_t rows = 0;            // that it wants a step
  };

  // A branch that could have rows in the step being planned.
  struct Candidate {
    Request* request = nullptr;
    Branch* branch = nullptr;
  };

  // scheduler.cpp: life of requests.
  void Emit(uint64_t id, TreeEvent event) { events_.emplace_back(id, std::move(event)); }
  void End(Requests::iterator it);
  void NoteCreated(Request* request, const std::vector<int32_t>& created);

  // scheduler_memory.cpp: who has blocks.
  void AdmitRequests();
  void StartRequest(Request* request);
  int32_t AvailableBlocks() const;
  bool HasRoomFor(const Request& request, bool ahead) const;
  bool StartBranch(Request* request, Branch* branch, StepDraft* draft);
  Branch* SourceOf(Request* request, const Branch& branch) const;
  bool IsLastOf(const Request& request, const Branch& branch, const Branch& source) const;
  bool NoRoom(Request* request);
  int32_t KeptEnd(const Request& request, const Branch& branch, const Branch& source) const;
  bool ContinueSource(Request* request, Branch* branch, Branch* source, StepDraft* draft);
  bool OpenByTokens(Request* request, Branch* branch, bool forced);
  bool CachedBeyond(const Request& request, const Branch& run, const Branch& source) const;
  void CountCached(Request* request, Branch* run, int32_t cached_tokens);
  bool MakeRoom(Request* request, const Branch& branch, int32_t blocks);
  bool TakeRoom(const Request& request, const Branch& branch, int32_t blocks);
  void ListIdleLeaves();
  bool DropIdleLeaf(const Request& request, const Branch& branch, int32_t blocks);
  bool PreemptYounger(const Request& request, int32_t blocks);
  void Preempt(Request* victim);
  bool ParkHigherBranch(const Request& request, const Branch& branch);
  void GiveLeaf(Request* request, Branch* branch, int32_t leaf);
  int32_t TakeLeaf(Request* request, Branch* branch);
  void DropLeaf(Request* request, Branch* branch);
  void DropClaim(Request* request, Branch* branch);
  void Reconsider(Request* request, Branch* branch);
  void EndSlot(Branch* branch);

  // scheduler_fairness.cpp: what peers may take from one another.
  void CountHeldBlocks();
  void NoteHeld(const Request& request, int32_t blocks_before);
  bool MayClaim(const Request& request, int32_t blocks);
  bool MayBeginByClaim(const Request& request);
  void ClaimToBegin(Request* request);
  bool IsProtected(const Request& holder, const Request& from, int32_t blocks);
  bool ClaimBlocks(const Request& request, int32_t blocks);
  bool DropIdleLeafOf(int32_t peer);
  bool PreemptOf(int32_t peer);
  bool IsOldest(const Request& request) const;
  bool IsStarvedOldest(const Request& request) const;
  bool IsLastOfOldest(const Request& request, const Branch& branch) const;
  bool PreemptForOldest(const Request& request, const Branch& branch);
  const Request* OldestAdmitted() const;

  // scheduler_rows.cpp: who has rows.
  bool HasRowsToSpare(int32_t requests, int64_t rows_wanted) const;
  bool HasTurn(const Request& request) const;
  std::vector<Turn> InOrderOfTurns() const;
  void CollectCandidates(std::vector<Candidate>* decode, std::vector<Candidate>* prefill);
  bool IsDecode(const Request& request, const Branch& branch) const;
  using Group = std::span<Candidate>;  // of one request
  static std::vector<Group> GroupByRequest(std::vector<Candidate>* candidates);
  static std::vector<std::vector<size_t>> GroupByPeer(const std::vector<Group>& groups);
  static constexpr size_t kUrgencies = 3;
  std::array<std::vector<Candidate>, kUrgencies> ByUrgency(const std::vector<Candidate>& candidates) const;
  static std::vector<Candidate> LimitDecode(std::vector<Candidate>* decode, int32_t rows);
  void IssueDecode(const Candidate& candidate, int32_t budget, StepDraft* draft);
  int32_t IssuePrefill(std::vector<Candidate>* prefill, int32_t rows, StepDraft* draft);

  // scheduler_step.cpp: what runs.
  struct IssuedRows {
    int32_t rows = 0;
    bool complete = false;  // nothing is missing on the branch's path any more
  };
  bool Wants(const RequestTree& tree, const Branch& branch) const;
  std::shared_ptr<const StepInput> PlanStep();
  IssuedRows IssueBranch(const Candidate& candidate, int32_t budget, StepDraft* draft);
  void NotePrefill(const Candidate& candidate, StepDraft* draft) const;
  bool MakeLastRowRunAgain(Branch* branch);
  int32_t IssueNode(const Candidate& candidate, int32_t node, int32_t rows, StepDraft* draft);
  void AttachUses(const Candidate& candidate, int32_t first_position, int32_t end_position, StepDraft* draft);
  void AttachRunUses(Request* request, Branch* run, int32_t end_position, StepDraft* draft);
  void DrawFirstTokens(Request* request, const std::vector<int32_t>& awaiting, int32_t leaf, int32_t position,
                       StepDraft* draft);
  void DrawToken(Request* request, Branch* drawing, int32_t leaf, int32_t position, StepDraft* draft);
  void AssembleStep(StepDraft* draft);
  void CheckStep(const StepInput& input) const;

  // scheduler_commit.cpp: what came of it.
  Request* Find(uint64_t id);
  void CommitSamples(const StepRecord& record, const StepResult& result);
  void CommitScores(const StepRecord& record, const StepResult& result);
  void CommitUsage(const StepRecord& record);
  void CommitPrefills(const StepRecord& record);
  void ReportGiven(Request* request, const Branch& branch);
  BranchDelta* DeltaOf(Request* request, const Branch& branch);
  void Touch(Request* request);
  void SettleTouched(uint64_t step_id, bool committed);
  void Settle(Request* request, uint64_t step_id, bool committed);
  void FlushDeltas(Request* request, uint64_t step_id);
  TreeFinished Finished(const Request& request) const;

  SchedulerOptions options_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  TreeContext context_;
  BlockAllocator allocator_;
  KvTree tree_;
  BatchBuilder builder_;
  Requests requests_;
  PeerShares peers_;
  std::deque<StepRecord> in_flight_;
  std::vector<RequestEvent> events_;
  std::vector<uint64_t> touched_;  // requests with `changed`
  std::vector<int32_t> free_slots_;
  int32_t slots_ = 0;
  uint64_t step_ = 0;         // last issued
  int32_t running_ = 0;       // branches with a leaf
  std::vector<Turn> turns_;   // of the requests admitted in the last step planned, and of those since
  Request* found_ = nullptr;  // last answer of Find
  bool planning_ = false;
  // Leaves that nothing runs on, while a step is planned and once one of them was wanted: by age of the
  // request and number, the one to drop first last. Planning makes no branch idle that has no row in the
  // step.
  std::vector<Candidate> idle_leaves_;
  bool idle_leaves_listed_ = false;
  bool held_counted_ = false;  // peers_ knows what each holds; of the step being planned
  bool failed_ = false;
  bool growing_ = false;  // a tree has barriers left to resolve
  EngineStats counters_;
};

}  // namespace espalier
