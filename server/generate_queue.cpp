#include "server/generate_queue.h"

#include <iterator>
#include <utility>

#include "server/out_of_memory.h"
#include "server/wire.h"

namespace espalier {
namespace {

// Deltas are merged up to this size: clients limit a message to 4 MiB by default.
constexpr size_t kMaxMergedBytes = 1 << 20;

size_t BytesOfContent(const BranchDelta& delta) {
  size_t bytes = 5 * delta.token_ids.size() + 4 * delta.logprobs.size() + delta.text.size();
  for (const auto& entries : delta.top_logprobs) bytes += 6 + 13 * entries.size();
  return bytes;
}

// Numbers, lengths and the node's id.
constexpr size_t kBytesOfHead = 64 + kMaxNodeIdBytes;

template <typename T>
void Append(std::vector<T>* to, std::vector<T>* from) {
  to->insert(to->end(), std::make_move_iterator(from->begin()), std::make_move_iterator(from->end()));
}

}  // namespace

MergedDelta::MergedDelta(TreeDelta first) : merged_(std::move(first)), bytes_(BytesOf(merged_)) {}

size_t MergedDelta::BytesOf(const TreeDelta& delta) {
  size_t bytes = 16;
  for (const BranchDelta& branch : delta.branches) bytes += kBytesOfHead + BytesOfContent(branch);
  return bytes;
}

void MergedDelta::Add(TreeDelta later) {
  if (index_of_branch_.empty()) {
    for (size_t i = 0; i < merged_.branches.size(); ++i) index_of_branch_[merged_.branches[i].branch] = i;
  }
  merged_.step = later.step;
  for (BranchDelta& delta : later.branches) {
    bytes_ += BytesOfContent(delta);
    const auto [found, added] = index_of_branch_.try_emplace(delta.branch, merged_.branches.size());
    if (added) {
      bytes_ += kBytesOfHead;
      merged_.branches.push_back(std::move(delta));
      continue;
    }
    BranchDelta& target = merged_.branches[found->second];
    Append(&target.token_ids, &delta.token_ids);
    Append(&target.logprobs, &delta.logprobs);
    Append(&target.top_logprobs, &delta.top_logprobs);
    target.text += delta.text;
    if (delta.finish_reason != FinishReason::kNone) target.finish_reason = delta.finish_reason;
  }
}

void GenerateQueue::Attach(Reader* reader) {
  {
    const MutexLock one_at_a_time(send_mutex_);
    reader_ = reader;
  }
  Send();
}

void GenerateQueue::Detach() {
  const MutexLock one_at_a_time(send_mutex_);
  reader_ = nullptr;
}

std::shared_ptr<GenerateQueue> GenerateQueue::Create(const TreeRequest& request, WriterPool& writer_pool,
                                                     UnreadAnswers& unread) {
  const std::shared_ptr<GenerateQueue> queue(new GenerateQueue(request, writer_pool));
  queue->unread_ =
      unread.Open(request.peer, [weak = std::weak_ptr<GenerateQueue>(queue)](const std::string& why) {
        if (const auto alive = weak.lock()) alive->EndEarly(why);
      });
  return queue;
}

void GenerateQueue::WriteDone(bool ok) {
  int64_t uncounted = 0;
  {
    const MutexLock lock(mutex_);
    writing_ = false;
    writing_bytes_ = 0;
    if (!ok) Break();
    uncounted = TakeUncounted();
  }
  unread_->Add(uncounted);
  Send();
}

// On the engine's thread, where nothing may throw.
void GenerateQueue::OnEvent(TreeEvent event) {
  bool enqueue = false;
  int64_t uncounted = 0;
  {
    const MutexLock lock(mutex_);
    if (ends_early_ || final_) return;
    const Status kept = CatchOutOfMemory([&]() -> Status {
      mutex_.AssertHeld();
      const bool ends = std::holds_alternative<TreeFinished>(event);
      if (const Error* error = std::get_if<Error>(&event)) {
        final_ = ToStatus(*error);
      } else if (!broken_) {
        Keep(std::move(event));
      }
      if (ends) final_ = grpc::Status::OK;
      return {};
    });
    if (!kept) {  // what waits would have a gap
      Break();
      final_ = ToStatus(kept.error());
    }
    uncounted = TakeUncounted();
    enqueue = !writing_ && !queued_;
    queued_ = queued_ || enqueue;
  }
  if (enqueue) Enqueue();
  unread_->Add(uncounted);
}

void GenerateQueue::Enqueue() {
  const Status queued = CatchOutOfMemory([this]() -> Status {
    writer_pool_.Enqueue(shared_from_this());
    return {};
  });
  if (!queued) Send();
}

bool GenerateQueue::HasUnread() const {
  const MutexLock lock(mutex_);
  return writing_ || (final_ && !broken_ && (!waiting_.empty() || last_));
}

// Too much of this peer's answers waits. Where only a write under way is left of this one, or when called
// again, that write is cut.
void GenerateQueue::EndEarly(const std::string& why) {
  int64_t uncounted = 0;
  {
    const MutexLock lock(mutex_);
    const bool all_written = final_ && waiting_.empty() && !last_;  // but for the write under way
    cut_ = ends_early_ || all_written;
    if (!cut_) final_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, why);
    ends_early_ = true;
    Break();
    uncounted = TakeUncounted();
    queued_ = true;
  }
  unread_->Add(uncounted);
  const Status queued = CatchOutOfMemory([this]() -> Status {
    writer_pool_.Enqueue(shared_from_this());
    return {};
  });
  if (queued) return;
  const MutexLock lock(mutex_);
  queued_ = false;  // the next event or write enqueues it
}

// Nothing more is written but the status.
void GenerateQueue::Break() {
  broken_ = true;
  waiting_.clear();
  waiting_bytes_ = 0;
  last_.reset();
}

// What has changed since the last call: to be added without the lock.
int64_t GenerateQueue::TakeUncounted() {
  const int64_t bytes =
      waiting_bytes_ + writing_bytes_ + (last_ ? static_cast<int64_t>(last_->bytes()) : int64_t{0});
  return bytes - std::exchange(counted_bytes_, bytes);
}

int64_t GenerateQueue::BytesOf(const TreeEvent& event) const {
  if (const auto* delta = std::get_if<TreeDelta>(&event))
    return static_cast<int64_t>(MergedDelta::BytesOf(*delta));
  if (const auto* finished = std::get_if<TreeFinished>(&event)) return encoder_.BytesOf(*finished);
  if (const auto* selected = std::get_if<TreeSelected>(&event))
    return static_cast<int64_t>(kBytesOfHead + 16 * selected->scores.size());
  return static_cast<int64_t>(kBytesOfHead);
}

void GenerateQueue::Wait(TreeEvent event) {
  waiting_bytes_ += BytesOf(event);
  waiting_.push_back(std::move(event));
}

void GenerateQueue::Keep(TreeEvent event) {
  // Progress waits only where nothing but the start does, and until there is news.
  if (!waiting_.empty() && std::holds_alternative<TreeProgress>(waiting_.back())) {
    waiting_bytes_ -= BytesOf(waiting_.back());
    waiting_.pop_back();
  }
  const bool only_start = waiting_.empty() || std::holds_alternative<TreeStarted>(waiting_.back());
  if (std::holds_alternative<TreeProgress>(event) && (last_ || !only_start)) return;
  if (auto* delta = std::get_if<TreeDelta>(&event)) {
    if (last_ && last_->bytes() + MergedDelta::BytesOf(*delta) <= kMaxMergedBytes)
      return last_->Add(std::move(*delta));
    if (last_) Wait(last_->Take());
    last_.emplace(std::move(*delta));
    return;
  }
  if (last_) Wait(last_->Take());
  last_.reset();
  Wait(std::move(event));
}

std::optional<TreeEvent> GenerateQueue::TakeNext() {
  std::optional<TreeEvent> next;
  if (!waiting_.empty()) {
    waiting_bytes_ -= BytesOf(waiting_.front());
    next = std::move(waiting_.front());
    waiting_.pop_front();
  } else if (last_) {
    next = last_->Take();
    last_.reset();
  }
  return next;
}

void GenerateQueue::Send() {
  const MutexLock one_at_a_time(send_mutex_);
  std::optional<TreeEvent> next;
  std::optional<grpc::Status> status;
  bool gives_up = false;
  bool cuts = false;
  {
    const MutexLock lock(mutex_);
    queued_ = false;
    if (reader_ == nullptr || ended_) return;
    gives_up = ends_early_ && !std::exchange(gave_up_, ends_early_);
    cuts = cut_ && writing_ && !std::exchange(was_cut_, true);
    if (!writing_) {
      next = TakeNext();
      writing_ = next.has_value();
      if (!next) status = final_;
    }
  }
  if (gives_up) reader_->GiveUp();
  if (cuts) reader_->Cut();
  if (next) {
    const Result<grpc::ByteBuffer> message = CatchOutOfMemory(
        [&] { return Result<grpc::ByteBuffer>(SerializeMessage(Encode(std::move(*next)))); });
    if (message) return Write(*message);
    status = ToStatus(message.error());
  }
  if (!status) return;
  ended_ = true;
  reader_->End(*status);
}

// Nothing else is written meanwhile.
void GenerateQueue::Write(grpc::ByteBuffer message) {
  int64_t uncounted = 0;
  {
    const MutexLock lock(mutex_);
    writing_bytes_ = static_cast<int64_t>(message.Length());
    uncounted = TakeUncounted();
  }
  unread_->Add(uncounted);
  reader_->StartNext(std::move(message));
}

v1::GenerateResponse GenerateQueue::Encode(TreeEvent event) const {
  if (auto* delta = std::get_if<TreeDelta>(&event)) return encoder_.ToProto(std::move(*delta));
  if (const auto* started = std::get_if<TreeStarted>(&event)) return encoder_.ToProto(*started);
  if (const auto* progress = std::get_if<TreeProgress>(&event)) return encoder_.ToProto(*progress);
  if (const auto* selected = std::get_if<TreeSelected>(&event)) return encoder_.ToProto(*selected);
  return encoder_.ToProto(std::get<TreeFinished>(event));
}

}  // namespace espalier
