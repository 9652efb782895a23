#include "server/generate_queue.h"

#include <iterator>
#include <utility>

#include "server/wire.h"

namespace espalier {
namespace {

// Deltas are merged up to this size: clients limit a message to 4 MiB unless told otherwise.
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
    const std::lock_guard one_at_a_time(send_mutex_);
    reader_ = reader;
  }
  Send();
}

void GenerateQueue::Detach() {
  const std::lock_guard one_at_a_time(send_mutex_);
  reader_ = nullptr;
}

void GenerateQueue::WriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      waiting_.clear();
      last_.reset();
    }
  }
  Send();
}

void GenerateQueue::OnEvent(TreeEvent event) {
  {
    const std::lock_guard lock(mutex_);
    if (const Error* error = std::get_if<Error>(&event)) {
      final_ = ToStatus(*error);
    } else {
      if (std::holds_alternative<TreeFinished>(event)) final_ = grpc::Status::OK;
      if (!broken_) Keep(std::move(event));
    }
    if (writing_ || listed_) return;
    listed_ = true;
  }
  outbox_.List(shared_from_this());
}

void GenerateQueue::Keep(TreeEvent event) {
  // Progress waits only where nothing but the start does, and until there is news.
  if (!waiting_.empty() && std::holds_alternative<TreeProgress>(waiting_.back())) waiting_.pop_back();
  const bool only_start = waiting_.empty() || std::holds_alternative<TreeStarted>(waiting_.back());
  if (std::holds_alternative<TreeProgress>(event) && (last_ || !only_start)) return;
  if (auto* delta = std::get_if<TreeDelta>(&event)) {
    if (last_ && last_->bytes() + MergedDelta::BytesOf(*delta) <= kMaxMergedBytes)
      return last_->Add(std::move(*delta));
    if (last_) waiting_.emplace_back(last_->Take());
    last_.emplace(std::move(*delta));
    return;
  }
  if (last_) waiting_.emplace_back(last_->Take());
  last_.reset();
  waiting_.push_back(std::move(event));
}

std::optional<TreeEvent> GenerateQueue::TakeNext() {
  std::optional<TreeEvent> next;
  if (!waiting_.empty()) {
    next = std::move(waiting_.front());
    waiting_.pop_front();
  } else if (last_) {
    next = last_->Take();
    last_.reset();
  }
  return next;
}

void GenerateQueue::Send() {
  const std::lock_guard one_at_a_time(send_mutex_);
  std::optional<TreeEvent> next;
  std::optional<grpc::Status> status;
  {
    const std::lock_guard lock(mutex_);
    listed_ = false;
    if (reader_ == nullptr || ended_ || writing_) return;
    next = TakeNext();
    writing_ = next.has_value();
    if (!next) status = final_;
  }
  if (next) {
    reader_->StartNext(SerializeMessage(Encode(std::move(*next))));
  } else if (status) {
    ended_ = true;
    reader_->End(*status);
  }
}

v1::GenerateResponse GenerateQueue::Encode(TreeEvent event) const {
  if (auto* delta = std::get_if<TreeDelta>(&event)) return encoder_.ToProto(std::move(*delta));
  if (const auto* started = std::get_if<TreeStarted>(&event)) return encoder_.ToProto(*started);
  if (const auto* progress = std::get_if<TreeProgress>(&event)) return encoder_.ToProto(*progress);
  if (const auto* selected = std::get_if<TreeSelected>(&event)) return encoder_.ToProto(*selected);
  return encoder_.ToProto(std::get<TreeFinished>(event));
}

}  // namespace espalier
