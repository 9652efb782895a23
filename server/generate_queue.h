#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "engine/tree_event.h"
#include "server/outbox.h"
#include "server/tree_codec.h"

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

// What waits to be written for one Generate call. The engine's thread fills it and does no more; the outbox's
// threads and gRPC's empty it. While a reader is slow its deltas are merged, so that what waits for it is at
// most its own answer. Shared by the engine and the call; lives until both have let go.
class GenerateQueue final : public TreeEventSink,
                            public Outbox::Sender,
                            public std::enable_shared_from_this<GenerateQueue> {
 public:
  // The call. One function is called at a time, and Start only after WriteDone has answered the one before.
  class Reader {
   public:
    virtual void StartNext(grpc::ByteBuffer message) = 0;
    virtual void End(const grpc::Status& status) = 0;

   protected:
    ~Reader() = default;
  };

  // The outbox outlives the engine's last event.
  GenerateQueue(const TreeRequest& request, Outbox& outbox) : encoder_(request), outbox_(outbox) {}

  void Attach(Reader* reader);
  void Detach();  // the reader is not called any more once this has returned
  void WriteDone(bool ok);

  void OnEvent(TreeEvent event) override;
  // Encodes and starts the next write, or ends the call, unless a write is under way.
  void Send() override;

 private:
  void Keep(TreeEvent event);
  std::optional<TreeEvent> TakeNext();
  v1::GenerateResponse Encode(TreeEvent event) const;

  const TreeEncoder encoder_;
  Outbox& outbox_;

  std::mutex send_mutex_;  // taken before mutex_, never by the engine's thread
  Reader* reader_ = nullptr;
  bool ended_ = false;

  std::mutex mutex_;  // held for moments only
  std::deque<TreeEvent> waiting_;
  std::optional<MergedDelta> last_;  // behind those
  std::optional<grpc::Status> final_;
  bool listed_ = false;  // in the outbox
  bool writing_ = false;
  bool broken_ = false;  // the client is gone: nothing more is written
};

}  // namespace espalier
