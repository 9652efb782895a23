#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "engine/tree_event.h"
#include "kernels/base/mutex.h"
#include "server/tree_codec.h"
#include "server/unread_answers.h"
#include "server/writer_pool.h"

namespace espalier {

// Deltas of one tree, put together until its reader takes them.
class MergedDelta {
 public:
  explicit MergedDelta(TreeDelta first);

  // Later tokens of a branch follow the earlier ones. The step is that of `later`.
  void Add(TreeDelta later);
  // At least what it takes when encoded; what Add of this delta would add at most.
  size_t bytes() const { return bytes_; }
  static size_t BytesOf(const TreeDelta& delta);
  TreeDelta Take() { return std::move(merged_); }

 private:
  TreeDelta merged_;
  size_t bytes_;
  std::unordered_map<int32_t, size_t> index_of_branch_;  // filled by the first Add
};

// What waits to be written for one Generate call. The engine's thread fills it and does no more; the writer
// pool's threads and gRPC's empty it. While a reader is slow its deltas are merged, so that what waits for it
// is at most its own answer, which counts among the unread answers of its peer. Shared by the engine and the
// call; lives until both have released it.
class GenerateQueue final : public TreeEventSink,
                            public WriterPool::Sender,
                            public std::enable_shared_from_this<GenerateQueue> {
 public:
  // The call. One function is called at a time, and Start only after WriteDone has answered the one before.
  class Reader {
   public:
    virtual void StartNext(grpc::ByteBuffer message) = 0;
    virtual void End(const grpc::Status& status) = 0;
    // The answer ends early, with a status that follows the write under way: nothing more of it is needed.
    virtual void GiveUp() = 0;
    // The write under way is to fail, though the status is lost with it.
    virtual void Cut() = 0;

   protected:
    ~Reader() = default;
  };

  // The writer pool outlives the engine's last event.
  static std::shared_ptr<GenerateQueue> Create(const TreeRequest& request, WriterPool& writer_pool,
                                               UnreadAnswers& unread);

  void Attach(Reader* reader);
  void Detach();  // the reader is not called any more once this has returned
  void WriteDone(bool ok);

  void OnEvent(TreeEvent event) override;
  bool HasUnread() const override;
  // Encodes and starts the next write, or ends the call, unless a write is under way.
  void Send() override;

 private:
  GenerateQueue(const TreeRequest& request, WriterPool& writer_pool)
      : encoder_(request), writer_pool_(writer_pool) {}

  void Keep(TreeEvent event) ESPALIER_REQUIRES(mutex_);
  void Wait(TreeEvent event) ESPALIER_REQUIRES(mutex_);
  void Break() ESPALIER_REQUIRES(mutex_);
  void Enqueue();
  void EndEarly(const std::string& why);
  int64_t BytesOf(const TreeEvent& event) const;
  int64_t TakeUncounted() ESPALIER_REQUIRES(mutex_);
  std::optional<TreeEvent> TakeNext() ESPALIER_REQUIRES(mutex_);
  void Write(grpc::ByteBuffer message) ESPALIER_REQUIRES(send_mutex_);
  v1::GenerateResponse Encode(TreeEvent event) const;

  const TreeEncoder encoder_;
  WriterPool& writer_pool_;

  std::unique_ptr<UnreadAnswers::Answer> unread_;

  Mutex send_mutex_ ESPALIER_ACQUIRED_BEFORE(mutex_);  // never taken by the engine's thread
  Reader* reader_ ESPALIER_GUARDED_BY(send_mutex_) = nullptr;
  bool ended_ ESPALIER_GUARDED_BY(send_mutex_) = false;
  bool gave_up_ ESPALIER_GUARDED_BY(send_mutex_) = false;

  mutable Mutex mutex_;  // held for moments only
  std::deque<TreeEvent> waiting_ ESPALIER_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;        // of those
  int64_t counted_bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;        // in unread_
  std::optional<MergedDelta> last_ ESPALIER_GUARDED_BY(mutex_);  // behind those
  std::optional<grpc::Status> final_ ESPALIER_GUARDED_BY(mutex_);
  bool queued_ ESPALIER_GUARDED_BY(mutex_) = false;  // in the writer pool
  bool writing_ ESPALIER_GUARDED_BY(mutex_) = false;
  int64_t writing_bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;
  // The client is gone, lets too much wait, or memory is short: nothing more is written.
  bool broken_ ESPALIER_GUARDED_BY(mutex_) = false;
  bool ends_early_ ESPALIER_GUARDED_BY(mutex_) = false;
  bool cut_ ESPALIER_GUARDED_BY(mutex_) = false;      // the write under way is not waited for
  bool was_cut_ ESPALIER_GUARDED_BY(mutex_) = false;  // the reader was asked to, once
};

}  // namespace espalier
