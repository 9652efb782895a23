// The engine's thread over the fake device: what a server sees of it. Run under ThreadSanitizer too.
#include "engine/engine.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/engine/fakes/fake_runner.h"
#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/naive_tree.h"
#include "tests/support/catch.h"

namespace espalier {
namespace {

using test::FakeRunner;
using test::FakeRunnerOptions;

// Keeps the events of one request; Wait returns them once the last one is there.
class RecordingSink : public TreeEventSink {
 public:
  void OnEvent(TreeEvent event) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool last = std::holds_alternative<TreeFinished>(event) || std::holds_alternative<Error>(event);
    events_.push_back(std::move(event));
    ended_ = ended_ || last;
    changed_.notify_all();
  }
  std::vector<TreeEvent> Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
    return events_;
  }
  void WaitForTokens() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ended_ || events_.size() >= 3; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TreeEvent> events_;
  bool ended_ = false;
};

struct Fixture {
  explicit Fixture(FakeRunnerOptions runner_options = {}, int32_t max_queued_requests = 64) {
    runner_options.steps_in_flight = 2;
    auto runner = std::make_unique<FakeRunner>(runner_options);
    device = runner->device();
    EngineOptions options;
    options.block_tokens = runner_options.block_tokens;
    options.total_blocks = runner_options.total_blocks;
    options.max_batch_rows = 16;
    options.prefill_chunk_tokens = 8;
    options.max_queued_requests = max_queued_requests;
    options.check_invariants = true;
    const int32_t vocab_size = runner->info().vocab_size;
    auto created = Engine::Create(options, std::move(runner), test::MakeFakeTokenizer(vocab_size));
    REQUIRE(created.ok());
    engine = std::move(created).value();
  }

  std::shared_ptr<test::FakeDeviceState> device;
  std::unique_ptr<Engine> engine;
};

TreeRequest FewShot(int32_t prompt_tokens, int32_t branches, int32_t max_new_tokens, uint64_t seed = 1) {
  TreeRequest request;
  request.seed = seed;
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < prompt_tokens; ++i) prompt.push_back((i * 7 + 3) % 30);
  request.nodes.push_back({"prompt", -1, GivenSpec{.token_ids = prompt}});
  GenerateSpec generate;
  generate.branches = branches;
  generate.max_new_tokens = max_new_tokens;
  generate.ignore_eos = true;
  request.nodes.push_back({"answer", 0, generate});
  return request;
}

const Error* EndedWith(const std::vector<TreeEvent>& events) { return std::get_if<Error>(&events.back()); }

TEST_CASE("requests from many threads finish with their own answers and leave no live block") {
  Fixture fixture;
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::vector<std::string> problems;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 6; ++i) {
        auto sink = std::make_shared<RecordingSink>();
        const auto id = fixture.engine->Submit(FewShot(20, 3, 8, thread * 10 + i), sink);
        if (id.ok() && i == 4) fixture.engine->Cancel(*id);
        const std::vector<TreeEvent> events = id.ok() ? sink->Wait() : std::vector<TreeEvent>{id.error()};
        fixture.engine->Stats();
        fixture.engine->Snapshot();
        const std::lock_guard<std::mutex> lock(mutex);
        if (const Error* error = EndedWith(events); error != nullptr && i != 4)
          problems.push_back(error->message);
        if (const auto* finished = std::get_if<TreeFinished>(&events.back())) {
          if (finished->branches.size() != 3) problems.push_back("branches are missing");
          if (finished->usage.generated_tokens != 24) problems.push_back("tokens are missing");
          if (finished->usage.first_token_us <= 0) problems.push_back("no time of the first token");
          if (finished->usage.total_us < finished->usage.first_token_us) problems.push_back("times run back");
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& problem : problems) FAIL_CHECK(problem);
  const EngineStats stats = fixture.engine->Stats();
  CHECK(stats.finished + stats.cancelled == 24);
  CHECK(stats.requests_active == 0);
  CHECK(stats.branches_active == 0);
  fixture.engine->FlushCache();
  CHECK(fixture.engine->Snapshot().nodes.empty());
  CHECK(fixture.device->Problem().empty());
}

TEST_CASE("a lost device ends every request, and the engine refuses further ones") {
  FakeRunnerOptions options;
  options.fail_after_steps = 3;
  Fixture fixture(options);
  auto first = std::make_shared<RecordingSink>();
  auto second = std::make_shared<RecordingSink>();
  REQUIRE(fixture.engine->Submit(FewShot(20, 4, 20), first).ok());
  const auto id = fixture.engine->Submit(FewShot(30, 4, 20), second);
  for (const auto& sink : {first, second}) {
    if (sink == second && !id.ok()) continue;  // refused already
    const std::vector<TreeEvent> events = sink->Wait();
    REQUIRE(EndedWith(events) != nullptr);
    const ErrorCode code = EndedWith(events)->code;
    CHECK((code == ErrorCode::kInternal || code == ErrorCode::kUnavailable));
  }
  const auto refused = fixture.engine->Submit(FewShot(5, 1, 1), std::make_shared<RecordingSink>());
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kUnavailable);
  CHECK(fixture.engine->Stats().requests_active == 0);
}

TEST_CASE("who asked hears once that the device is lost, before or after it happened") {
  FakeRunnerOptions options;
  options.fail_after_steps = 2;
  Fixture fixture(options);
  std::atomic<int> replaced = 0;
  std::atomic<int> heard = 0;
  fixture.engine->OnFailure([&](const Error&) { ++replaced; });
  fixture.engine->OnFailure([&](const Error&) { ++heard; });
  auto sink = std::make_shared<RecordingSink>();
  REQUIRE(fixture.engine->Submit(FewShot(20, 4, 20), sink).ok());
  sink->Wait();
  CHECK(heard == 1);
  CHECK(replaced == 0);
  int late = 0;
  fixture.engine->OnFailure([&](const Error& error) {
    ++late;
    CHECK_FALSE(error.message.empty());
  });
  CHECK(late == 1);
}

TEST_CASE("a cancelled request ends with kCancelled and gives back all that only it used") {
  FakeRunnerOptions options;
  options.step_us = 500;
  Fixture fixture(options);
  auto sink = std::make_shared<RecordingSink>();
  const auto id = fixture.engine->Submit(FewShot(20, 4, 40), sink);
  REQUIRE(id.ok());
  sink->WaitForTokens();
  fixture.engine->Cancel(*id);
  fixture.engine->Cancel(*id);  // no effect
  const std::vector<TreeEvent> events = sink->Wait();
  REQUIRE(EndedWith(events) != nullptr);
  CHECK(EndedWith(events)->code == ErrorCode::kCancelled);
  fixture.engine->Drain(1'000'000);
  fixture.engine->FlushCache();
  CHECK(fixture.engine->Stats().requests_active == 0);
  CHECK(fixture.engine->Snapshot().nodes.empty());
}

TEST_CASE("a request that waits for its client neither fails the engine nor keeps its thread busy") {
  Fixture fixture;
  Engine& engine = *fixture.engine;
  const auto submit = [&](bool stays_open, uint64_t seed) {
    TreeRequest request = FewShot(20, 2, 5, seed);
    request.stays_open = stays_open;
    auto sink = std::make_shared<RecordingSink>();
    const Result<uint64_t> id = engine.Submit(request, sink);
    REQUIRE(id.ok());
    return std::pair(*id, sink);
  };
  const auto [waiting, waiting_sink] = submit(true, 1);
  const auto [other, other_sink] = submit(false, 2);
  CHECK(std::holds_alternative<TreeFinished>(other_sink->Wait().back()));
  // The thread goes to sleep, though a request is left.
  bool asleep = false;
  for (int attempt = 0; attempt < 250 && !asleep; ++attempt) {
    const EngineStats before = engine.Stats();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const EngineStats after = engine.Stats();
    asleep = after.steps == before.steps && after.idle_us - before.idle_us >= 15'000;
  }
  CHECK(asleep);
  CHECK(engine.Stats().requests_active == 1);
  CHECK(engine.Stats().blocks_live == 0);

  // It serves others, and ends the request when its client closes it.
  CHECK(std::holds_alternative<TreeFinished>(submit(false, 3).second->Wait().back()));
  engine.Close(waiting);
  CHECK(std::holds_alternative<TreeFinished>(waiting_sink->Wait().back()));
}

TEST_CASE("draining lets requests finish, cancels what is left, and refuses new ones") {
  FakeRunnerOptions options;
  options.step_us = 1000;
  options.total_blocks = 256;
  Fixture fixture(options);
  auto quick = std::make_shared<RecordingSink>();
  auto slow = std::make_shared<RecordingSink>();
  REQUIRE(fixture.engine->Submit(FewShot(4, 1, 2), quick).ok());
  REQUIRE(fixture.engine->Submit(FewShot(4, 1, 400, 2), slow).ok());
  quick->Wait();
  fixture.engine->Drain(1000);
  CHECK(std::holds_alternative<TreeFinished>(quick->Wait().back()));
  const std::vector<TreeEvent> events = slow->Wait();
  REQUIRE(EndedWith(events) != nullptr);
  CHECK(EndedWith(events)->code == ErrorCode::kUnavailable);
  CHECK(EndedWith(events)->message == "the server is stopping");
  const auto refused = fixture.engine->Submit(FewShot(4, 1, 2), std::make_shared<RecordingSink>());
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kUnavailable);
}

TEST_CASE("an engine that is destroyed ends what runs") {
  FakeRunnerOptions options;
  options.step_us = 1000;
  auto sink = std::make_shared<RecordingSink>();
  {
    Fixture fixture(options);
    REQUIRE(fixture.engine->Submit(FewShot(4, 2, 50), sink).ok());
  }
  const std::vector<TreeEvent> events = sink->Wait();
  REQUIRE(EndedWith(events) != nullptr);
  CHECK(EndedWith(events)->code == ErrorCode::kUnavailable);
}

TEST_CASE("a full queue refuses requests before any work is done") {
  FakeRunnerOptions options;
  options.step_us = 1000;
  options.total_blocks = 24;
  Fixture fixture(options, 2);
  std::vector<std::shared_ptr<RecordingSink>> accepted;
  bool refused = false;
  for (uint64_t i = 0; i < 12; ++i) {
    auto sink = std::make_shared<RecordingSink>();
    const auto id = fixture.engine->Submit(FewShot(60, 1, 20, i), sink);
    if (id.ok()) {
      accepted.push_back(sink);
    } else {
      refused = true;
      CHECK(id.error().code == ErrorCode::kResourceExhausted);
      CHECK(id.error().message.rfind("the request queue is full (2 wait): try again in about ", 0) == 0);
      CHECK(fixture.engine->RetryAfterMs() >= 10);
    }
  }
  CHECK(refused);
  for (const auto& sink : accepted) CHECK(std::holds_alternative<TreeFinished>(sink->Wait().back()));
}

TEST_CASE("what does not make sense is refused with the field at fault") {
  Fixture fixture;
  TreeRequest request = FewShot(4, 1, 2);
  request.nodes[1].parent = 7;
  const auto refused = fixture.engine->Submit(request, std::make_shared<RecordingSink>());
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::kInvalidArgument);
  CHECK(!refused.error().field.empty());

  EngineOptions options;
  const auto without_blocks =
      Engine::Create(options, std::make_unique<FakeRunner>(FakeRunnerOptions{}), nullptr);
  REQUIRE(!without_blocks.ok());
  CHECK(without_blocks.error().field == "total_blocks");
}

}  // namespace
}  // namespace espalier
