#include "server/generate_queue.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

TreeRequest Request() {
  TreeRequest request;
  request.nodes = {{"root", -1, GivenSpec{{1}, false, 0}},
                   {std::string(kMaxNodeIdBytes, 'n'), 0, GenerateSpec{}}};
  return request;
}

BranchDelta Gain(int32_t branch, int32_t token, const std::string& text) {
  BranchDelta delta;
  delta.branch = branch;
  delta.node = 1;
  delta.parent = 0;
  delta.token_ids = {token};
  delta.logprobs = {-0.5F};
  delta.text = text;
  delta.top_logprobs = {{{token, -0.5F}, {2147483647, -80.0F}}};
  return delta;
}

TEST_CASE("deltas that wait for a slow reader become one") {
  MergedDelta merged(TreeDelta{4, {Gain(1, 10, "a")}});
  TreeDelta later{5, {Gain(1, 11, "b"), Gain(2, 12, "c")}};
  later.branches[0].finish_reason = FinishReason::kStopToken;
  merged.Add(later);
  merged.Add(TreeDelta{9, {Gain(2, 13, "d")}});
  const TreeDelta all = merged.Take();
  CHECK(all.step == 9);
  REQUIRE(all.branches.size() == 2);
  CHECK(all.branches[0].text == "ab");
  CHECK(all.branches[0].token_ids == std::vector<int32_t>{10, 11});
  CHECK(all.branches[0].logprobs.size() == 2);
  CHECK(all.branches[0].top_logprobs.size() == 2);
  CHECK(all.branches[0].finish_reason == FinishReason::kStopToken);
  CHECK(all.branches[1].text == "cd");
  CHECK(all.branches[1].finish_reason == FinishReason::kNone);
}

TEST_CASE("the bound of a merged delta holds for what is sent") {
  const TreeEncoder encoder(Request());
  MergedDelta merged(TreeDelta{1, {Gain(0, 2147483647, "x")}});
  for (uint64_t step = 2; step < 400; ++step) {
    TreeDelta delta{step, {}};
    for (int32_t branch = 0; branch < 7; ++branch)
      delta.branches.push_back(Gain(branch, 2147483647, std::string(branch * 5, 'y')));
    merged.Add(std::move(delta));
  }
  const size_t bound = merged.bytes();
  const size_t bytes = encoder.ToProto(merged.Take()).ByteSizeLong();
  CHECK(bytes <= bound);
  CHECK(bytes > bound / 4);
}

class Recorder final : public GenerateQueue::Reader {
 public:
  void StartNext(grpc::ByteBuffer /*message*/) override { ++writes; }
  void End(const grpc::Status& status) override { ended_with.push_back(status); }
  void GiveUp() override { ++given_up; }
  void Cut() override { ++cuts; }

  int writes = 0;
  std::atomic<int> given_up = 0;
  std::atomic<int> cuts = 0;
  std::vector<grpc::Status> ended_with;
};

TEST_CASE("a reader that takes nothing gets its events in order and once, however late it comes back") {
  WriterPool writer_pool;
  const auto unread = std::make_shared<UnreadAnswers>(1 << 30);
  const auto queue = GenerateQueue::Create(Request(), writer_pool, *unread);
  Recorder reader;
  queue->OnEvent(TreeStarted{});
  queue->Attach(&reader);
  CHECK(reader.writes == 1);
  queue->OnEvent(TreeProgress{});
  queue->OnEvent(TreeProgress{});
  for (uint64_t step = 1; step <= 5000; ++step) queue->OnEvent(TreeDelta{step, {Gain(1, 10, "a")}});
  queue->OnEvent(TreeFinished{});
  CHECK(reader.writes == 1);
  for (int i = 0; i < 3; ++i) queue->WriteDone(true);
  CHECK(reader.writes == 3);  // the deltas are one, and progress has gone stale
  REQUIRE(reader.ended_with.size() == 1);
  CHECK(reader.ended_with[0].ok());
  CHECK(unread->bytes() == 0);
  CHECK_FALSE(queue->HasUnread());
  queue->Detach();
}

TEST_CASE("nothing is kept for a client that is gone") {
  WriterPool writer_pool;
  const auto unread = std::make_shared<UnreadAnswers>(1 << 30);
  const auto queue = GenerateQueue::Create(Request(), writer_pool, *unread);
  Recorder reader;
  queue->OnEvent(TreeStarted{});
  queue->Attach(&reader);
  queue->OnEvent(TreeDelta{1, {Gain(1, 10, "a")}});
  queue->WriteDone(false);
  CHECK(reader.writes == 1);
  CHECK(reader.ended_with.empty());  // the engine still works on it
  queue->OnEvent(Error{ErrorCode::kCancelled, "", "the request was cancelled"});
  queue->Send();
  REQUIRE(reader.ended_with.size() == 1);
  CHECK(reader.ended_with[0].error_code() == grpc::StatusCode::CANCELLED);
  CHECK(reader.writes == 1);
  CHECK(unread->bytes() == 0);
  queue->Detach();
}

TreeFinished LargeAnswer(size_t bytes) {
  TreeFinished finished;
  BranchSummary& branch = finished.branches.emplace_back();
  branch.node = 1;
  branch.text.assign(bytes, 'x');
  return finished;
}

TEST_CASE("what waits counts until it is written, and the answer counts as unread until then") {
  WriterPool writer_pool;
  const auto unread = std::make_shared<UnreadAnswers>(1 << 30);
  const auto queue = GenerateQueue::Create(Request(), writer_pool, *unread);
  Recorder reader;
  queue->OnEvent(TreeStarted{});
  queue->OnEvent(TreeDelta{1, {Gain(1, 10, "a")}});
  queue->OnEvent(LargeAnswer(100'000));
  CHECK(queue->HasUnread());
  CHECK(unread->bytes() > 100'000);
  CHECK(unread->bytes() < 102'000);
  queue->Attach(&reader);
  queue->WriteDone(true);
  queue->WriteDone(true);
  CHECK(reader.writes == 3);
  CHECK(queue->HasUnread());
  CHECK(unread->bytes() > 100'000);  // gRPC has it
  CHECK(unread->bytes() < 100'500);
  queue->WriteDone(true);
  CHECK(unread->bytes() == 0);
  CHECK_FALSE(queue->HasUnread());
  queue->Detach();
}

// Waits for the writer pool's threads.
template <typename Condition>
bool Comes(const Condition& condition) {
  for (int i = 0; i < 6000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return condition();
}

TEST_CASE("of a peer that reads nothing, the largest answer ends; of others, none") {
  WriterPool writer_pool;
  const auto unread = std::make_shared<UnreadAnswers>(150'000);
  const auto of = [](const char* peer) {
    TreeRequest request = Request();
    request.peer = peer;
    return request;
  };
  const auto small = GenerateQueue::Create(of("a"), writer_pool, *unread);
  const auto large = GenerateQueue::Create(of("a"), writer_pool, *unread);
  const auto other = GenerateQueue::Create(of("b"), writer_pool, *unread);
  Recorder small_reader;
  Recorder large_reader;
  Recorder other_reader;
  const std::vector<std::pair<std::shared_ptr<GenerateQueue>, Recorder*>> all = {
      {small, &small_reader}, {large, &large_reader}, {other, &other_reader}};
  for (const auto& [queue, reader] : all) {
    queue->OnEvent(TreeStarted{});
    queue->Attach(reader);  // and writes nothing more
  }
  other->OnEvent(LargeAnswer(140'000));
  large->OnEvent(LargeAnswer(100'000));
  CHECK(large_reader.given_up == 0);
  small->OnEvent(LargeAnswer(80'000));
  CHECK(Comes([&] { return large_reader.given_up == 1; }));
  CHECK(large_reader.ended_with.empty());  // after the write under way
  large->OnEvent(Error{ErrorCode::kCancelled, "", "the request was cancelled"});
  large->WriteDone(true);
  REQUIRE(large_reader.ended_with.size() == 1);
  CHECK(large_reader.ended_with[0].error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  CHECK(large_reader.ended_with[0].error_message().find("max_unread_bytes") != std::string::npos);
  CHECK(large_reader.writes == 1);
  for (const auto& [queue, reader] : {all[0], all[2]}) {
    queue->WriteDone(true);
    queue->WriteDone(true);
    REQUIRE(reader->ended_with.size() == 1);
    CHECK(reader->ended_with[0].ok());
    CHECK(reader->given_up == 0);
  }
  CHECK(unread->bytes() == 0);
  for (const auto& [queue, reader] : all) queue->Detach();
}

TEST_CASE("writes under way that are too much are cut") {
  WriterPool writer_pool;
  const auto unread = std::make_shared<UnreadAnswers>(150'000);
  const auto first = GenerateQueue::Create(Request(), writer_pool, *unread);
  const auto second = GenerateQueue::Create(Request(), writer_pool, *unread);
  Recorder first_reader;
  Recorder second_reader;
  first->Attach(&first_reader);
  second->Attach(&second_reader);
  first->OnEvent(LargeAnswer(100'000));
  REQUIRE(Comes([&] { return unread->bytes() > 100'000 && first->HasUnread(); }));
  first->Send();  // the write is under way, if it was not
  second->OnEvent(LargeAnswer(90'000));
  CHECK(Comes([&] { return first_reader.given_up == 1; }));
  second->OnEvent(TreeSelected{});
  CHECK(Comes([&] { return first_reader.cuts == 1; }));
  first->WriteDone(false);
  CHECK(Comes([&] { return first_reader.ended_with.size() == 1; }));
  CHECK(second_reader.given_up == 0);
  first->Detach();
  second->Detach();
}

TEST_CASE("what all peers leave unread is bounded too") {
  const auto unread = std::make_shared<UnreadAnswers>(1000);
  std::vector<std::string> ended;
  std::vector<std::unique_ptr<UnreadAnswers::Answer>> answers;
  for (int i = 0; i < 6; ++i) {
    answers.push_back(unread->Open(std::to_string(i),
                                   [&ended, i](const std::string&) { ended.push_back(std::to_string(i)); }));
  }
  for (size_t i = 0; i < 4; ++i) answers[i]->Add(900 + static_cast<int64_t>(i));
  CHECK(ended.empty());
  answers[4]->Add(500);
  CHECK(ended == std::vector<std::string>{"3"});
  answers[3]->Add(-903);
  answers[5]->Add(400);
  CHECK(ended.size() == 1);
  CHECK(unread->bytes() == 900 + 901 + 902 + 500 + 400);
  answers.clear();
  CHECK(unread->bytes() == 0);
}

}  // namespace
}  // namespace espalier
