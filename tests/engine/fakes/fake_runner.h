#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include "model/model_runner.h"
#include "tests/engine/fakes/fake_device.h"

namespace espalier::test {

struct FakeRunnerOptions {
  FakeModelOptions model;
  int32_t total_blocks = 64;
  int32_t block_tokens = 4;
  int32_t max_positions = 512;
  int32_t max_rows = 64;
  int32_t steps_in_flight = 1;
  int32_t processors = 2;         // of the plan
  int64_t fail_after_steps = -1;  // >= 0: the device is lost after so many steps
  int64_t step_us = 0;            // how long a step takes
};

// What tests look at while a runner works on another thread.
class FakeDeviceState {
 public:
  explicit FakeDeviceState(FakeDevice device) : device_(std::move(device)) {}
  template <typename Function>
  auto With(Function function) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return function(device_);
  }
  std::string Problem() {
    return With([](const FakeDevice& device) { return device.problem(); });
  }

 private:
  std::mutex mutex_;
  FakeDevice device_;
};

// An asynchronous runner over a FakeDevice: nothing is executed before it is waited for, and by then the
// input must be what was issued.
class FakeRunner : public ModelRunner {
 public:
  explicit FakeRunner(const FakeRunnerOptions& options);

  const ModelInfo& info() const override { return info_; }
  void Issue(std::shared_ptr<const StepInput> step) override;
  Result<StepResult> Wait() override;

  std::shared_ptr<FakeDeviceState> device() const { return device_; }
  int32_t in_flight() const { return static_cast<int32_t>(queue_.size()); }

 private:
  struct Issued {
    std::shared_ptr<const StepInput> step;
    uint64_t hash = 0;
  };

  FakeRunnerOptions options_;
  ModelInfo info_;
  std::shared_ptr<FakeDeviceState> device_;
  std::deque<Issued> queue_;
  int64_t waited_ = 0;
};

}  // namespace espalier::test
