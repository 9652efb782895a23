#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>

#include "kernels/base/mutex.h"

namespace espalier {

// Bytes of answers that wait for their readers, by peer. Where more of a peer's wait than it may let wait,
// its largest answer ends; so does the largest of the peer with the most, where more of all peers' wait than
// kPeers times that. Thread-safe.
class UnreadAnswers : public std::enable_shared_from_this<UnreadAnswers> {
 public:
  static constexpr int64_t kPeers = 4;

  // One answer. What is left of it when it is destroyed does not count any more.
  class Answer {
   public:
    ~Answer();
    // More of it waits, or less. Not under a lock that the `end` of any answer takes.
    void Add(int64_t bytes) {
      try {
        all_->Add(this, bytes);
      } catch (const std::bad_alloc&) {  // of an answer that has to end: it does when more waits
      }
    }

   private:
    friend class UnreadAnswers;
    Answer(std::shared_ptr<UnreadAnswers> all, const std::string& peer,
           std::function<void(const std::string&)> end)
        : all_(std::move(all)), peer_(peer), end_(std::move(end)) {}

    const std::shared_ptr<UnreadAnswers> all_;
    const std::string peer_;
    const std::function<void(const std::string&)> end_;
    bool counted_ = false;  // is in peers_
  };

  explicit UnreadAnswers(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // `end` is called when the answer has to end, with the reason, by any thread that calls Add: it lets go of
  // what has not been written. It is called once more where even writes under way are too much. It may be
  // called while the answer is being destroyed, and may call Add.
  std::unique_ptr<Answer> Open(const std::string& peer, std::function<void(const std::string& why)> end);

  int64_t bytes() const;

 private:
  struct Waiting {
    int64_t bytes = 0;
    int ends = 0;  // how often it was asked to end
  };
  struct Peer {
    int64_t bytes = 0;  // of all its answers
    std::map<Answer*, Waiting> answers;
  };

  void Add(Answer* answer, int64_t bytes);
  static std::map<Answer*, Waiting>::iterator LargestOf(Peer& peer);

  const int64_t max_bytes_;
  mutable Mutex mutex_;
  std::map<std::string, Peer> peers_ ESPALIER_GUARDED_BY(mutex_);
  int64_t bytes_ ESPALIER_GUARDED_BY(mutex_) = 0;
};

}  // namespace espalier
