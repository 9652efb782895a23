#include "server/tree_service.h"

#include <atomic>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "server/tree_codec.h"
#include "server/wire.h"

namespace espalier {
namespace {

uint64_t DrawSeed() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

// Deltas are merged up to this size: clients limit a message to 4 MiB unless told otherwise.
constexpr size_t kMaxMergedBytes = 1 << 20;

// The engine's id of a call's request, and whether the client left before it was known.
class CancelHandle {
 public:
  explicit CancelHandle(Engine& engine) : engine_(engine) {}

  void Submitted(uint64_t request_id) {
    request_id_.store(request_id);
    if (wanted_.load()) engine_.Cancel(request_id);
  }
  // At any time, from any thread, more than once.
  void Cancel() {
    wanted_.store(true);
    if (const auto id = request_id_.load(); id != 0) engine_.Cancel(id);
  }

 private:
  Engine& engine_;
  std::atomic<uint64_t> request_id_{0};
  std::atomic<bool> wanted_{false};
};

// What waits to be written for one Generate call. Shared by the engine, which fills it, and the reactor,
// which empties it; it lives until both have let go.
class GenerateQueue final : public TreeEventSink {
 public:
  explicit GenerateQueue(const TreeRequest& request) : encoder_(request) {}

  // The reactor is told under the lock, and detaches itself under it before it dies.
  class Reader {
   public:
    virtual void StartNext(v1::GenerateResponse response) = 0;
    virtual void End(const grpc::Status& status) = 0;

   protected:
    ~Reader() = default;
  };

  void Attach(Reader* reader) {
    std::lock_guard lock(mutex_);
    reader_ = reader;
    Advance();
  }
  void Detach() {
    std::lock_guard lock(mutex_);
    reader_ = nullptr;
  }
  void WriteDone(bool ok) {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      broken_ = true;
      waiting_.clear();
    }
    Advance();
  }

  void OnEvent(TreeEvent event) override {
    std::lock_guard lock(mutex_);
    if (const Error* error = std::get_if<Error>(&event)) {
      final_ = ToStatus(*error);
    } else if (std::holds_alternative<TreeFinished>(event)) {
      final_ = grpc::Status::OK;
    }
    if (!broken_) Enqueue(std::move(event));
    Advance();
  }

 private:
  void Enqueue(TreeEvent event) {
    // Progress waits only where nothing else does, and until there is news.
    if (!waiting_.empty() && waiting_.back().has_progress()) waiting_.pop_back();
    if (auto* delta = std::get_if<TreeDelta>(&event)) {
      v1::GenerateResponse response = encoder_.ToProto(std::move(*delta));
      const size_t bytes = response.ByteSizeLong();
      if (!waiting_.empty() && waiting_.back().has_delta() && last_delta_bytes_ + bytes <= kMaxMergedBytes) {
        MergeDelta(response.delta(), *waiting_.back().mutable_delta());
        last_delta_bytes_ += bytes;
      } else {
        last_delta_bytes_ = bytes;
        waiting_.push_back(std::move(response));
      }
    } else if (const auto* started = std::get_if<TreeStarted>(&event)) {
      waiting_.push_back(encoder_.ToProto(*started));
    } else if (const auto* progress = std::get_if<TreeProgress>(&event)) {
      if (waiting_.empty()) waiting_.push_back(encoder_.ToProto(*progress));
    } else if (const auto* selected = std::get_if<TreeSelected>(&event)) {
      waiting_.push_back(encoder_.ToProto(*selected));
    } else if (const auto* finished = std::get_if<TreeFinished>(&event)) {
      waiting_.push_back(encoder_.ToProto(*finished));
    }
  }

  // Starts the next write, or ends the call, unless a write is under way. Under the lock.
  void Advance() {
    if (reader_ == nullptr || writing_ || ended_) return;
    if (!waiting_.empty()) {
      writing_ = true;
      v1::GenerateResponse next = std::move(waiting_.front());
      waiting_.pop_front();
      reader_->StartNext(std::move(next));
    } else if (final_) {
      ended_ = true;
      reader_->End(*final_);
    }
  }

  std::mutex mutex_;
  const TreeEncoder encoder_;
  Reader* reader_ = nullptr;
  std::deque<v1::GenerateResponse> waiting_;
  size_t last_delta_bytes_ = 0;  // of the delta that entered waiting_ last, with all that was merged into it
  std::optional<grpc::Status> final_;
  bool writing_ = false;
  bool broken_ = false;  // the client is gone: nothing more is written
  bool ended_ = false;
};

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public GenerateQueue::Reader {
 public:
  GenerateReactor(Engine& engine, const Tokenizer& tokenizer, const grpc::ByteBuffer& bytes)
      : cancel_(engine) {
    if (Status status = Begin(engine, tokenizer, bytes); !status) Finish(ToStatus(status.error()));
  }

  void StartNext(v1::GenerateResponse response) override {
    outgoing_ = SerializeMessage(response);
    StartWrite(&outgoing_);
  }
  void End(const grpc::Status& status) override { Finish(status); }

  void OnWriteDone(bool ok) override {
    if (!ok) cancel_.Cancel();
    queue_->WriteDone(ok);
  }
  void OnCancel() override { cancel_.Cancel(); }
  void OnDone() override {
    if (queue_) queue_->Detach();
    delete this;
  }

 private:
  Status Begin(Engine& engine, const Tokenizer& tokenizer, const grpc::ByteBuffer& bytes) {
    v1::GenerateRequest message;
    if (Status status = ParseMessage(bytes, message); !status) return status;
    auto request = FromProto(message, tokenizer, message.has_seed() ? 0 : DrawSeed());
    if (!request) return request.error();
    auto queue = std::make_shared<GenerateQueue>(*request);
    const auto id = engine.Submit(std::move(*request), queue);
    if (!id) return id.error();
    queue_ = std::move(queue);
    queue_->Attach(this);
    cancel_.Submitted(*id);
    return {};
  }

  CancelHandle cancel_;
  std::shared_ptr<GenerateQueue> queue_;
  grpc::ByteBuffer outgoing_;  // of the write under way
};

// Collects the scores of one Score call.
class ScoreReactor final : public grpc::ServerUnaryReactor {
 public:
  ScoreReactor(Engine& engine, const grpc::ByteBuffer& bytes, grpc::ByteBuffer* response)
      : cancel_(engine), response_(response) {
    if (Status status = Begin(engine, bytes); !status) Finish(ToStatus(status.error()));
  }

  void OnCancel() override { cancel_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  // The reactor ends only by the sink's last event, so it outlives every event.
  class Sink final : public TreeEventSink {
   public:
    Sink(ScoreReactor* reactor, const v1::ScoreRequest& message) : reactor_(reactor) {
      for (const v1::TokenIds& continuation : message.continuations()) {
        *message_.add_scores()->mutable_token_ids() = continuation.ids();
      }
    }

    void OnEvent(TreeEvent event) override {
      if (auto* delta = std::get_if<TreeDelta>(&event)) {
        for (const BranchDelta& branch : delta->branches) Add(branch);
      } else if (const auto* finished = std::get_if<TreeFinished>(&event)) {
        Complete(finished->usage);
        *reactor_->response_ = SerializeMessage(message_);
        reactor_->Finish(grpc::Status::OK);
      } else if (const auto* error = std::get_if<Error>(&event)) {
        reactor_->Finish(ToStatus(*error));
      }
    }

   private:
    void Add(const BranchDelta& branch) {
      v1::ContinuationScore& score = *message_.mutable_scores(branch.node - 1);
      score.mutable_logprobs()->Add(branch.logprobs.begin(), branch.logprobs.end());
      for (const auto& entries : branch.top_logprobs) ToProto(entries, *score.add_top_logprobs());
    }
    void Complete(const TreeUsage& usage) {
      for (v1::ContinuationScore& score : *message_.mutable_scores()) {
        double sum = 0.0;
        for (const float logprob : score.logprobs()) sum += logprob;
        score.set_sum_logprob(sum);
        score.set_mean_logprob(sum / score.token_ids_size());
      }
      ToProto(usage, *message_.mutable_usage());
    }

    ScoreReactor* reactor_;
    v1::ScoreResponse message_;
  };

  Status Begin(Engine& engine, const grpc::ByteBuffer& bytes) {
    v1::ScoreRequest message;
    if (Status status = ParseMessage(bytes, message); !status) return status;
    auto request = FromProto(message);
    if (!request) return request.error();
    const auto id = engine.Submit(std::move(*request), std::make_shared<Sink>(this, message));
    if (!id) return WithScoreField(id.error());
    cancel_.Submitted(*id);
    return {};
  }

  // The engine names nodes of the tree; the client of Score knows prompt and continuations.
  static Error WithScoreField(Error error) {
    constexpr std::string_view kNode = "nodes[";
    if (error.field == "nodes") error.field = "continuations";
    if (error.field.rfind(kNode, 0) != 0) return error;
    const size_t close = error.field.find(']');
    const int node = std::atoi(error.field.c_str() + kNode.size());
    std::string rest = error.field.substr(close + 1);
    constexpr std::string_view kIds = ".given.token_ids";
    if (rest.rfind(kIds, 0) == 0) {
      rest.erase(0, kIds.size());
    } else if (rest == ".given") {
      rest = ".ids";
    } else if (rest == ".given.top_logprobs") {
      error.field = "top_logprobs";
      return error;
    }
    error.field = (node == 0 ? "prompt" : "continuations[" + std::to_string(node - 1) + "]") + rest;
    return error;
  }

  CancelHandle cancel_;
  grpc::ByteBuffer* response_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* TreeService::Generate(grpc::CallbackServerContext* /*context*/,
                                                                  const grpc::ByteBuffer* request) {
  return new GenerateReactor(engine_, tokenizer_, *request);
}

grpc::ServerUnaryReactor* TreeService::Score(grpc::CallbackServerContext* /*context*/,
                                             const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return new ScoreReactor(engine_, *request, response);
}

}  // namespace espalier
