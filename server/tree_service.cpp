#include "server/tree_service.h"

#include <atomic>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "server/generate_queue.h"
#include "server/tree_codec.h"
#include "server/unread_message.h"
#include "server/wire.h"

namespace espalier {
namespace {

uint64_t RandomSeed() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

// The engine's id of a call's request, and whether the client left before it was known.
class CancelHandle {
 public:
  explicit CancelHandle(Engine& engine) : engine_(engine) {}

  void Submitted(uint64_t request_id) {
    request_id_.store(request_id);
    if (wanted_.load()) CancelInEngine(request_id);
  }
  // At any time, from any thread, more than once.
  void Cancel() {
    wanted_.store(true);
    if (const auto id = request_id_.load(); id != 0) CancelInEngine(id);
  }

 private:
  void CancelInEngine(uint64_t request_id) {
    try {
      engine_.Cancel(request_id);
    } catch (const std::bad_alloc&) {  // it runs to its end, unread
    }
  }

  Engine& engine_;
  std::atomic<uint64_t> request_id_{0};
  std::atomic<bool> wanted_{false};
};

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public GenerateQueue::Reader,
                              private Intake {
 public:
  GenerateReactor(Engine& engine, const Tokenizer& tokenizer, WriterPool& writer_pool,
                  const MethodContext& methods, grpc::CallbackServerContext& context,
                  const grpc::ByteBuffer* bytes)
      : Intake(methods, context, bytes),
        engine_(engine),
        tokenizer_(tokenizer),
        writer_pool_(writer_pool),
        cancel_(std::make_shared<CancelHandle>(engine)) {
    Start();
  }

  void StartNext(grpc::ByteBuffer message) override {
    wrote_ = true;
    outgoing_.Swap(&message);
    StartWrite(&outgoing_);
  }
  void End(const grpc::Status& status) override {
    if (!wrote_) SayWhenToRetry(status);
    Finish(status);
  }
  void GiveUp() override { cancel_->Cancel(); }
  void Cut() override { context().TryCancel(); }

  void OnWriteDone(bool ok) override {
    if (!ok) cancel_->Cancel();
    queue_->WriteDone(ok);
  }
  void OnCancel() override {
    cancel_->Cancel();
    Intake::Cancel();
  }
  void OnDone() override {
    cancel_->Cancel();  // of a call that ended before its tree
    if (queue_) queue_->Detach();
    delete this;
  }

 private:
  int64_t RetryAfterMs() const override { return engine_.RetryAfterMs(); }

  Status Begin(grpc::ByteBuffer& bytes) override {
    v1::GenerateRequest message;
    if (Status status = ParseMessage(bytes, methods().limits, message); !status) return status;
    bytes.Clear();
    auto request = FromProto(message, {tokenizer_, engine_.limits().max_path_tokens, cancelled()},
                             message.has_seed() ? 0 : RandomSeed());
    if (!request) return request.error();
    request->peer = peer();
    const auto queue = GenerateQueue::Create(*request, writer_pool_, methods().unread);
    const auto id = engine_.Submit(std::move(*request), queue);
    if (!id) return id.error();
    cancel_->Submitted(*id);
    queue_ = queue;
    queue->Attach(this);  // who reads all of it may end the call at once, and this
    return {};
  }

  Engine& engine_;
  const Tokenizer& tokenizer_;
  WriterPool& writer_pool_;
  const std::shared_ptr<CancelHandle> cancel_;
  bool wrote_ = false;
  std::shared_ptr<GenerateQueue> queue_;
  grpc::ByteBuffer outgoing_;  // of the write under way
};

// Collects the scores of one Score call.
class ScoreReactor final : public grpc::ServerUnaryReactor, private Intake {
 public:
  ScoreReactor(Engine& engine, const Tokenizer& tokenizer, const MethodContext& methods,
               grpc::CallbackServerContext& context, const grpc::ByteBuffer* bytes,
               grpc::ByteBuffer* response)
      : Intake(methods, context, bytes),
        engine_(engine),
        tokenizer_(tokenizer),
        unread_(std::make_shared<UnreadMessage>(methods.unread, peer(), context)),
        cancel_(std::make_shared<CancelHandle>(engine)),
        response_(response) {
    Start();
  }

  void OnCancel() override {
    cancel_->Cancel();
    Intake::Cancel();
  }
  void OnDone() override {
    cancel_->Cancel();  // of a call that ended before its tree
    delete this;
  }

 private:
  // The reactor ends only by the sink's last event, so it outlives every event.
  class Sink final : public TreeEventSink {
   public:
    Sink(ScoreReactor* reactor, const TreeRequest& request)
        : reactor_(reactor), field_(request.nodes[1].id.substr(0, request.nodes[1].id.find('['))) {
      for (size_t i = 1; i < request.nodes.size(); ++i) {
        const std::vector<int32_t>& ids = std::get<GivenSpec>(request.nodes[i].content).token_ids;
        message_.add_scores()->mutable_token_ids()->Add(ids.begin(), ids.end());
      }
    }

    // On the engine's thread, where nothing may throw.
    void OnEvent(TreeEvent event) override {
      if (reactor_ == nullptr) return;  // it has ended, early for lack of memory
      const Status taken = CatchOutOfMemory([&]() -> Status {
        if (auto* error = std::get_if<Error>(&event)) return std::move(*error);
        if (const auto* delta = std::get_if<TreeDelta>(&event)) {
          for (const BranchDelta& branch : delta->branches) Add(branch);
        } else if (const auto* finished = std::get_if<TreeFinished>(&event)) {
          if (failure_) return *failure_;
          Answer(finished->usage);
        }
        return {};
      });
      if (taken) return;
      ScoreReactor& ended = *std::exchange(reactor_, nullptr);
      ended.Fail(taken.error());
    }
    bool HasUnread() const override { return !unread_.expired(); }

   private:
    void Add(const BranchDelta& branch) {
      if (branch.finish_reason == FinishReason::kError && !failure_) {
        failure_ = Error{ErrorCode::kInternal, field_ + "[" + std::to_string(branch.node - 1) + "]",
                         "the model's logits are infinite or not a number"};
      }
      v1::ContinuationScore& score = *message_.mutable_scores(branch.node - 1);
      score.mutable_logprobs()->Add(branch.logprobs.begin(), branch.logprobs.end());
      for (const auto& entries : branch.top_logprobs) ToProto(entries, *score.add_top_logprobs());
    }
    void Answer(const TreeUsage& usage) {
      Complete(usage);
      grpc::ByteBuffer answer = SerializeMessage(message_);
      unread_ = reactor_->unread_;
      reactor_->unread_->Add(answer);
      reactor_->response_->Swap(&answer);
      std::exchange(reactor_, nullptr)->Finish(grpc::Status::OK);
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
    const std::string field_;  // of the continuations
    v1::ScoreResponse message_;
    std::weak_ptr<UnreadMessage> unread_;  // of an answer that is complete
    std::optional<Error> failure_;         // of the first continuation that has no score
  };

  int64_t RetryAfterMs() const override { return engine_.RetryAfterMs(); }
  void End(const grpc::Status& status) override {
    SayWhenToRetry(status);
    Finish(status);
  }

  Status Begin(grpc::ByteBuffer& bytes) override {
    v1::ScoreRequest message;
    if (Status status = ParseMessage(bytes, methods().limits, message); !status) return status;
    bytes.Clear();
    auto request = FromProto(message, {tokenizer_, engine_.limits().max_path_tokens, cancelled()});
    if (!request) return request.error();
    request->peer = peer();
    auto sink = std::make_shared<Sink>(this, *request);
    const std::shared_ptr<CancelHandle> cancel = cancel_;  // the engine may be done before Submit returns
    const auto id = engine_.Submit(std::move(*request), std::move(sink));
    if (!id) return WithScoreField(id.error(), message);
    cancel->Submitted(*id);
    return {};
  }

  Engine& engine_;
  const Tokenizer& tokenizer_;
  const std::shared_ptr<UnreadMessage> unread_;
  const std::shared_ptr<CancelHandle> cancel_;
  grpc::ByteBuffer* response_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* TreeService::Generate(grpc::CallbackServerContext* context,
                                                                  const grpc::ByteBuffer* request) {
  return new GenerateReactor(engine_, tokenizer_, writer_pool_, methods_, *context, request);
}

grpc::ServerUnaryReactor* TreeService::Score(grpc::CallbackServerContext* context,
                                             const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return new ScoreReactor(engine_, tokenizer_, methods_, *context, request, response);
}

}  // namespace espalier
