#include "server/generate_queue.h"

#include <string>
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

  int writes = 0;
  std::vector<grpc::Status> ended_with;
};

TEST_CASE("a reader that takes nothing gets its events in order and once, however late it comes back") {
  Outbox outbox;
  const auto queue = std::make_shared<GenerateQueue>(Request(), outbox);
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
  queue->Detach();
}

TEST_CASE("nothing is kept for a client that is gone") {
  Outbox outbox;
  const auto queue = std::make_shared<GenerateQueue>(Request(), outbox);
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
  queue->Detach();
}

}  // namespace
}  // namespace espalier
