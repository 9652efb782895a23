#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "model/model_runner.h"

namespace espalier::test {

// What a test does to the device of a running server. Thread-safe.
class Pace {
 public:
  // No step ends before Release. Hold returns at once; WaitUntilHeld when a step is waiting to end, after
  // which the engine's thread does nothing.
  void Hold();
  void WaitUntilHeld();
  void Release();
  // From now on a step takes at least so long.
  void SetStepUs(int64_t us) { step_us_ = us; }
  // The step that ends next is lost, and with it the device.
  void Fail() { fails_ = true; }

  // For the runner: the end of a step. False: the device is lost.
  bool EndStep();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool waiting_ = false;
  std::atomic<int64_t> step_us_ = 0;
  std::atomic<bool> fails_ = false;
};

std::unique_ptr<ModelRunner> MakePacedRunner(std::unique_ptr<ModelRunner> inner, std::shared_ptr<Pace> pace);

}  // namespace espalier::test
