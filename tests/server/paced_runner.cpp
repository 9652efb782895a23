#include "tests/server/paced_runner.h"

#include <chrono>
#include <thread>
#include <utility>

namespace espalier::test {
namespace {

class PacedRunner final : public ModelRunner {
 public:
  PacedRunner(std::unique_ptr<ModelRunner> inner, std::shared_ptr<Pace> pace)
      : inner_(std::move(inner)), pace_(std::move(pace)) {}

  const ModelInfo& info() const override { return inner_->info(); }
  void Issue(std::shared_ptr<const StepInput> step) override { inner_->Issue(std::move(step)); }
  Result<StepResult> Wait() override {
    Result<StepResult> result = inner_->Wait();
    if (pace_->EndStep()) return result;
    return Error{ErrorCode::kUnavailable, "", "the test broke the device"};
  }

 private:
  std::unique_ptr<ModelRunner> inner_;
  std::shared_ptr<Pace> pace_;
};

}  // namespace

void Pace::Hold() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void Pace::WaitUntilHeld() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_; });
}

void Pace::Release() {
  const std::lock_guard lock(mutex_);
  held_ = false;
  changed_.notify_all();
}

bool Pace::EndStep() {
  if (const int64_t us = step_us_; us > 0) std::this_thread::sleep_for(std::chrono::microseconds(us));
  std::unique_lock lock(mutex_);
  waiting_ = held_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !held_; });
  waiting_ = false;
  return !fails_;
}

std::unique_ptr<ModelRunner> MakePacedRunner(std::unique_ptr<ModelRunner> inner, std::shared_ptr<Pace> pace) {
  return std::make_unique<PacedRunner>(std::move(inner), std::move(pace));
}

}  // namespace espalier::test
