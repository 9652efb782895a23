#include "server/worker_pool.h"

#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

// Notes that it runs, and runs until it is let go.
class TestJob : public WorkerPool::Job {
 public:
  explicit TestJob(std::string name = "", std::vector<std::string>* order = nullptr)
      : name_(std::move(name)), order_(order) {}

  void Run() override {
    if (order_ != nullptr) {
      const std::lock_guard lock(Mutex());
      order_->push_back(name_);
    }
    begun_.set_value();
    let_go_.get_future().wait();
    ended_.set_value();
  }
  void WaitUntilBegun() { begun_.get_future().wait(); }
  void LetGo() { let_go_.set_value(); }
  void WaitUntilEnded() { ended_.get_future().wait(); }

 private:
  static std::mutex& Mutex() {
    static std::mutex mutex;
    return mutex;
  }
  std::string name_;
  std::vector<std::string>* order_;
  std::promise<void> begun_;
  std::promise<void> let_go_;
  std::promise<void> ended_;
};

void End(TestJob& job) {
  job.LetGo();
  job.WaitUntilEnded();
}

TEST_CASE("a peer alone leaves a thread for the next") {
  WorkerPool pool(2, 1000);
  TestJob first;
  TestJob second;
  TestJob other;
  REQUIRE(pool.Add("a", 1, &first));
  first.WaitUntilBegun();
  REQUIRE(pool.Add("a", 1, &second));
  REQUIRE(pool.Add("b", 1, &other));
  other.WaitUntilBegun();  // although `second` came earlier
  CHECK(pool.Remove(&second));
  End(first);
  End(other);
}

TEST_CASE("peers take turns") {
  WorkerPool pool(2, 1000);
  std::vector<std::string> order;
  TestJob long_one;
  TestJob a0("a0");
  REQUIRE(pool.Add("x", 1, &long_one));
  long_one.WaitUntilBegun();
  REQUIRE(pool.Add("a", 1, &a0));
  a0.WaitUntilBegun();  // both threads are taken
  std::vector<std::unique_ptr<TestJob>> jobs;
  for (const char* name : {"a1", "a2", "a3", "b1", "b2", "c1"}) {
    jobs.push_back(std::make_unique<TestJob>(name, &order));
    jobs.back()->LetGo();
    REQUIRE(pool.Add(std::string(1, name[0]), 1, jobs.back().get()));
  }
  End(a0);
  for (const auto& job : jobs) job->WaitUntilEnded();
  CHECK(order == std::vector<std::string>{"a1", "b1", "c1", "a2", "b2", "a3"});
  End(long_one);
}

TEST_CASE("what waits is bounded, and one peer does not fill it") {
  WorkerPool pool(2, 100);
  TestJob running;
  REQUIRE(pool.Add("a", 1, &running));
  running.WaitUntilBegun();
  TestJob waiting;
  TestJob too_much;
  TestJob of_other;
  REQUIRE(pool.Add("a", 50, &waiting));
  CHECK_FALSE(pool.Add("a", 1, &too_much));
  TestJob busy;
  REQUIRE(pool.Add("b", 1, &busy));
  busy.WaitUntilBegun();
  CHECK_FALSE(pool.Add("c", 51, &too_much));
  REQUIRE(pool.Add("c", 50, &of_other));
  CHECK_FALSE(pool.Add("d", 1, &too_much));
  CHECK(pool.RetryAfterMs() >= 10);
  CHECK(pool.Remove(&of_other));
  CHECK_FALSE(pool.Remove(&of_other));
  CHECK_FALSE(pool.Remove(&running));
  CHECK(pool.Add("c", 50, &of_other));
  CHECK(pool.Remove(&of_other));
  CHECK(pool.Remove(&waiting));
  End(running);
  End(busy);
}

}  // namespace
}  // namespace espalier
