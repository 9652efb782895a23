#include "server/out_of_memory.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "server/generate_queue.h"
#include "server/request_limits.h"
#include "server/tree_codec.h"
#include "server/unread_answers.h"
#include "server/wire.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

// The n-th allocation of this thread fails, where a test says so.
namespace {
thread_local int64_t allocations_left = -1;  // below 0: all succeed
thread_local bool failed = false;
}  // namespace

// All forms but the aligned ones, so that libraries' nothrow and array forms meet their own kind too.
void* operator new(size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    failed = true;
    return nullptr;
  }
  return std::malloc(bytes);
}
void* operator new(size_t bytes) {
  if (void* memory = operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t& tag) noexcept { return operator new(bytes, tag); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t /*bytes*/) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t /*bytes*/) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t& /*tag*/) noexcept { std::free(memory); }

// Protobuf and SentencePiece lose what they were adding when an allocation throws. What is ours must not.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:google::protobuf\nleak:sentencepiece::\n";
}

namespace espalier::test {
namespace {

// Runs `work` with its first, second, ... allocation failing, until one run needs no more. `check` sees what
// each came to. Before that it runs once with all of them: libraries make some things at their first use by
// std::call_once, and ThreadSanitizer's never ends when an exception has left it.
template <typename Work, typename Check>
int ForEachFailure(const Work& work, const Check& check) {
  check(CatchOutOfMemory(work));
  for (int64_t n = 0;; ++n) {
    allocations_left = n;
    failed = false;
    auto result = CatchOutOfMemory(work);
    allocations_left = -1;
    if (!failed) {
      CHECK(result.ok());
      check(std::move(result));
      return static_cast<int>(n);
    }
    if (!result.ok()) REQUIRE(result.error().code == ErrorCode::kResourceExhausted);
    check(std::move(result));
  }
}

v1::GenerateRequest SampleRequest() {
  v1::GenerateRequest request = FewShot("the quick brown fox jumps over the lazy dog", 3, 4);
  v1::Generate& generate = *request.mutable_nodes(1)->mutable_generate();
  generate.add_stop_strings("a stop string of more than fifteen bytes");
  generate.add_stop_token_ids(7);
  generate.mutable_sampling()->add_logit_bias()->set_token_id(5);
  v1::TreeNode& verdict = *request.add_nodes();
  verdict.set_id("a verdict of more than fifteen bytes");
  verdict.set_parent_id("answer");
  for (int i = 0; i < 20; ++i) verdict.mutable_given()->mutable_token_ids()->add_ids(i + 3);
  verdict.mutable_given()->set_score(true);
  v1::TreeNode& best = *request.add_nodes();
  best.set_id("best");
  best.set_parent_id(verdict.id());
  best.mutable_select()->set_keep(1);
  best.mutable_select()->set_score(v1::SELECT_SCORE_LATEST_VERDICT);
  request.GetReflection()->MutableUnknownFields(&request)->AddLengthDelimited(100, std::string(40, 'u'));
  return request;
}

TEST_CASE("reading a message survives any allocation that fails") {
  TestServer server;
  const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  const MessageLimits limits = RequestLimits(server.server().engine().limits(), **tokenizer);
  grpc::ByteBuffer bytes = SerializeMessage(SampleRequest());
  const auto parse = [&]() -> Status {
    v1::GenerateRequest message;
    return ParseMessage(bytes, limits, message);
  };
  CHECK(ForEachFailure(parse, [](const Status&) {}) > 10);
  const auto refuse = [&]() -> Result<grpc::Status> {
    return ToStatus(InvalidArgument("nodes[0].given.text", "a message of more than fifteen bytes"));
  };
  CHECK(ForEachFailure(refuse, [](const Result<grpc::Status>&) {}) > 1);
}

TEST_CASE("encoding the texts of a request survives any allocation that fails") {
  const std::atomic<bool> not_cancelled{false};
  for (const char* folder : {"sp_bpe", "byte_level", "bpe_metaspace"}) {
    const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data" / folder);
    REQUIRE(tokenizer.ok());
    const v1::GenerateRequest message = SampleRequest();
    const auto encode = [&] { return FromProto(message, {**tokenizer, 512, not_cancelled}, 1); };
    CHECK(ForEachFailure(encode, [](const Result<TreeRequest>&) {}) > 10);
  }
}

// Waits for the last event.
class LastEvent final : public TreeEventSink {
 public:
  void OnEvent(TreeEvent event) override {
    const std::lock_guard lock(mutex_);
    ended_ = ended_ || std::holds_alternative<TreeFinished>(event) || std::holds_alternative<Error>(event);
    if (ended_) changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

TEST_CASE("submitting a request survives any allocation that fails, and what was refused is gone") {
  TestServer server;
  const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  const std::atomic<bool> not_cancelled{false};
  const auto request = FromProto(SampleRequest(), {**tokenizer, 512, not_cancelled}, 1);
  REQUIRE(request.ok());
  Engine& engine = server.server().engine();
  std::shared_ptr<LastEvent> sink;
  const auto submit = [&]() -> Result<uint64_t> {
    sink = std::make_shared<LastEvent>();
    return engine.Submit(*request, sink);
  };
  const auto check = [&](const Result<uint64_t>& id) {
    if (id.ok()) sink->Wait();
    server.WaitUntilIdle();  // nothing counts as active
  };
  CHECK(ForEachFailure(submit, check) > 10);
  CHECK(Generate(server.trees(), FewShot("a prompt", 2, 4)).status.ok());
}

// Makes an allocation of the engine's own thread fail, the n-th after the tree has started.
class FailingSink final : public TreeEventSink {
 public:
  explicit FailingSink(int64_t n) : n_(n) {}
  void OnEvent(TreeEvent event) override {
    if (std::holds_alternative<TreeStarted>(event)) allocations_left = n_;
    if (std::holds_alternative<TreeFinished>(event)) allocations_left = -1;
    last_.OnEvent(std::move(event));
  }
  void Wait() { last_.Wait(); }

 private:
  const int64_t n_;
  LastEvent last_;
};

TEST_CASE("when the engine itself finds no memory every request hears of it, and the process goes on") {
  const std::atomic<bool> not_cancelled{false};
  const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  auto request = FromProto(SampleRequest(), {**tokenizer, 512, not_cancelled}, 1);
  REQUIRE(request.ok());
  int abandoned = 0;
  for (int64_t n = 0; n < 200; n += 1 + n / 4) {
    INFO("allocation " << n);
    TestServer server({.drain_timeout_ms = 0});
    Engine& engine = server.server().engine();
    const auto sink = std::make_shared<FailingSink>(n);
    const auto other = std::make_shared<LastEvent>();
    REQUIRE(engine.Submit(*request, sink).ok());
    const auto queued = engine.Submit(*request, other);
    sink->Wait();
    if (queued.ok()) other->Wait();
    const auto later = engine.Submit(*request, std::make_shared<LastEvent>());
    if (later.ok()) continue;  // so many it did not need
    CHECK(later.error().code == ErrorCode::kUnavailable);
    engine.Drain(0);
    CHECK(engine.Snapshot().nodes.empty());
    CHECK(engine.Stats().requests_active == 0);
    while (IsServing(server.channel())) std::this_thread::yield();
    ++abandoned;
  }
  CHECK(abandoned > 5);
}

class NotingReader final : public GenerateQueue::Reader {
 public:
  void StartNext(grpc::ByteBuffer /*message*/) override { ++writes; }
  void End(const grpc::Status& status) override {
    code = status.error_code();
    ++ends;
  }
  void GiveUp() override {}
  void Cut() override {}

  std::atomic<int> writes = 0;
  std::atomic<int> ends = 0;
  std::atomic<grpc::StatusCode> code = grpc::StatusCode::UNKNOWN;
};

TEST_CASE("a stream without memory for its events ends once, with RESOURCE_EXHAUSTED") {
  const std::atomic<bool> not_cancelled{false};
  const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  const auto request = FromProto(SampleRequest(), {**tokenizer, 512, not_cancelled}, 1);
  REQUIRE(request.ok());
  for (int64_t n = 0;; ++n) {
    WriterPool writer_pool;
    const auto unread = std::make_shared<UnreadAnswers>(int64_t{1} << 20);
    const auto queue = GenerateQueue::Create(*request, writer_pool, *unread);
    NotingReader reader;
    const auto feed = [&] {
      queue->OnEvent(TreeStarted{});
      for (uint64_t step = 0; step < 3; ++step) {
        TreeDelta delta;
        delta.step = step;
        for (int32_t branch = 1; branch < 4; ++branch) {
          BranchDelta part;
          part.branch = branch;
          part.node = 1;
          part.token_ids = {5, 6, 7};
          part.text = "a text of more than fifteen bytes";
          part.logprobs = {-1.0F, -2.0F, -3.0F};
          delta.branches.push_back(std::move(part));
        }
        const int64_t left = std::exchange(allocations_left, n);
        queue->OnEvent(std::move(delta));
        allocations_left = left;
      }
    };
    failed = false;
    feed();
    allocations_left = n;
    queue->OnEvent(TreeFinished{});
    allocations_left = -1;
    const bool any_failed = failed;
    queue->Attach(&reader);
    for (int done = 0; reader.ends == 0;) {
      if (reader.writes == done) continue;
      ++done;
      queue->WriteDone(true);
    }
    queue->Detach();
    CHECK(reader.ends == 1);
    const grpc::StatusCode code = reader.code;
    CHECK((code == grpc::StatusCode::RESOURCE_EXHAUSTED || code == grpc::StatusCode::OK));
    if (!any_failed) {
      CHECK(code == grpc::StatusCode::OK);
      CHECK(n > 3);
      break;
    }
  }
}

}  // namespace
}  // namespace espalier::test
