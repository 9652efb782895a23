#include "server/tree_service.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "server/generate_queue.h"
#include "server/peer.h"
#include "server/tree_codec.h"
#include "server/wire.h"

namespace espalier {
namespace {

uint64_t DrawSeed() {
  std::random_device source;
  return (uint64_t{source()} << 32) | source();
}

// Of a request that had no event yet. Where trying again makes sense, the trailing metadata says when, in the
// form that gRPC clients with a retry policy heed.
void SayWhenToRetry(grpc::CallbackServerContext& context, const Engine& engine, const grpc::Status& status) {
  if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED)
    context.AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(engine.RetryAfterMs()));
}

// The status of a request that was refused.
grpc::Status Refuse(grpc::CallbackServerContext& context, const Engine& engine, const Error& error) {
  const grpc::Status status = ToStatus(error);
  SayWhenToRetry(context, engine, status);
  return status;
}

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

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public GenerateQueue::Reader {
 public:
  GenerateReactor(Engine& engine, const Tokenizer& tokenizer, Outbox& outbox, UnreadAnswers& unread,
                  grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes)
      : engine_(engine), context_(context), cancel_(engine) {
    if (Status status = Begin(tokenizer, outbox, unread, bytes); !status)
      Finish(Refuse(context, engine, status.error()));
  }

  void StartNext(grpc::ByteBuffer message) override {
    wrote_ = true;
    outgoing_.Swap(&message);
    StartWrite(&outgoing_);
  }
  void End(const grpc::Status& status) override {
    if (!wrote_) SayWhenToRetry(context_, engine_, status);
    Finish(status);
  }
  void GiveUp() override { cancel_.Cancel(); }
  void Cut() override { context_.TryCancel(); }

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
  Status Begin(const Tokenizer& tokenizer, Outbox& outbox, UnreadAnswers& unread,
               const grpc::ByteBuffer& bytes) {
    v1::GenerateRequest message;
    if (Status status = ParseMessage(bytes, message); !status) return status;
    auto request =
        FromProto(message, tokenizer, engine_.limits().max_path_tokens, message.has_seed() ? 0 : DrawSeed());
    if (!request) return request.error();
    request->peer = PeerOfCall(context_.peer()).share;
    auto queue = GenerateQueue::Create(*request, outbox, unread);
    const auto id = engine_.Submit(std::move(*request), queue);
    if (!id) return id.error();
    queue_ = std::move(queue);
    queue_->Attach(this);
    cancel_.Submitted(*id);
    return {};
  }

  Engine& engine_;
  grpc::CallbackServerContext& context_;
  CancelHandle cancel_;
  bool wrote_ = false;
  std::shared_ptr<GenerateQueue> queue_;
  grpc::ByteBuffer outgoing_;  // of the write under way
};

// The answer of a unary call from its end until gRPC has let go of it: all of it waits for its reader.
class UnreadMessage {
 public:
  UnreadMessage(UnreadAnswers& unread, const std::string& peer, grpc::CallbackServerContext& context)
      : call_(std::make_shared<Call>()) {
    call_->context = &context;
    answer_ = unread.Open(peer, [call = call_](const std::string& /*why*/) {
      const std::lock_guard lock(call->mutex);
      if (call->context != nullptr) call->context->TryCancel();
    });
  }
  ~UnreadMessage() {
    const std::lock_guard lock(call_->mutex);
    call_->context = nullptr;
  }
  void Add(const grpc::ByteBuffer& message) { answer_->Add(static_cast<int64_t>(message.Length())); }

 private:
  struct Call {
    std::mutex mutex;
    grpc::CallbackServerContext* context = nullptr;
  };

  const std::shared_ptr<Call> call_;
  std::unique_ptr<UnreadAnswers::Answer> answer_;
};

// Collects the scores of one Score call.
class ScoreReactor final : public grpc::ServerUnaryReactor {
 public:
  ScoreReactor(Engine& engine, const Tokenizer& tokenizer, UnreadAnswers& unread,
               grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes,
               grpc::ByteBuffer* response)
      : engine_(engine),
        tokenizer_(tokenizer),
        context_(context),
        unread_(std::make_shared<UnreadMessage>(unread, PeerOfCall(context.peer()).share, context)),
        cancel_(engine),
        response_(response) {
    if (Status status = Begin(bytes); !status) Finish(Refuse(context, engine, status.error()));
  }

  void OnCancel() override { cancel_.Cancel(); }
  void OnDone() override { delete this; }

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

    void OnEvent(TreeEvent event) override {
      if (auto* delta = std::get_if<TreeDelta>(&event)) {
        for (const BranchDelta& branch : delta->branches) Add(branch);
      } else if (const auto* finished = std::get_if<TreeFinished>(&event)) {
        if (failure_) return reactor_->Finish(ToStatus(*failure_));
        Complete(finished->usage);
        *reactor_->response_ = SerializeMessage(message_);
        unread_ = reactor_->unread_;
        reactor_->unread_->Add(*reactor_->response_);
        reactor_->Finish(grpc::Status::OK);
      } else if (const auto* error = std::get_if<Error>(&event)) {
        reactor_->Finish(Refuse(reactor_->context_, reactor_->engine_, *error));
      }
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

  Status Begin(const grpc::ByteBuffer& bytes) {
    v1::ScoreRequest message;
    if (Status status = ParseMessage(bytes, message); !status) return status;
    auto request = FromProto(message, tokenizer_, engine_.limits().max_path_tokens);
    if (!request) return request.error();
    request->peer = PeerOfCall(context_.peer()).share;
    auto sink = std::make_shared<Sink>(this, *request);
    const auto id = engine_.Submit(std::move(*request), std::move(sink));
    if (!id) return WithScoreField(id.error(), message);
    cancel_.Submitted(*id);
    return {};
  }

  Engine& engine_;
  const Tokenizer& tokenizer_;
  grpc::CallbackServerContext& context_;
  const std::shared_ptr<UnreadMessage> unread_;
  CancelHandle cancel_;
  grpc::ByteBuffer* response_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* TreeService::Generate(grpc::CallbackServerContext* context,
                                                                  const grpc::ByteBuffer* request) {
  return new GenerateReactor(engine_, tokenizer_, outbox_, *unread_, *context, *request);
}

grpc::ServerUnaryReactor* TreeService::Score(grpc::CallbackServerContext* context,
                                             const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return new ScoreReactor(engine_, tokenizer_, *unread_, *context, *request, response);
}

}  // namespace espalier
