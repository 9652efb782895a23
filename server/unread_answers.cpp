#include "server/unread_answers.h"

#include <algorithm>
#include <utility>

namespace espalier {

UnreadAnswers::Answer::~Answer() {
  if (!counted_) return;
  const std::lock_guard lock(all_->mutex_);
  const auto peer = all_->peers_.find(peer_);
  all_->bytes_ -= bytes_;
  peer->second.bytes -= bytes_;
  peer->second.answers.erase(this);
  if (peer->second.answers.empty()) all_->peers_.erase(peer);
}

std::unique_ptr<UnreadAnswers::Answer> UnreadAnswers::Open(const std::string& peer,
                                                           std::function<void(const std::string&)> end) {
  std::unique_ptr<Answer> answer(new Answer(shared_from_this(), peer, std::move(end)));
  const std::lock_guard lock(mutex_);
  peers_[peer].answers.insert(answer.get());
  answer->counted_ = true;
  return answer;
}

void UnreadAnswers::Add(Answer* answer, int64_t bytes) {
  std::function<void(const std::string&)> end;
  std::string why;
  {
    const std::lock_guard lock(mutex_);
    Peer* peer = &peers_.at(answer->peer_);
    answer->bytes_ += bytes;
    peer->bytes += bytes;
    bytes_ += bytes;
    const bool too_much = bytes_ > kPeers * max_bytes_;
    if (bytes <= 0 || (peer->bytes <= max_bytes_ && !too_much)) return;
    if (peer->bytes <= max_bytes_) {
      const auto most = std::max_element(peers_.begin(), peers_.end(), [](const auto& a, const auto& b) {
        return a.second.bytes < b.second.bytes;
      });
      peer = &most->second;
    }
    Answer* largest = LargestOf(*peer);
    if (largest == nullptr) return;
    ++largest->ends_;
    end = largest->end_;
    why = "not read: " + std::to_string(peer->bytes) +
          " bytes of answers wait for this client, which may let " + std::to_string(max_bytes_) +
          " wait (max_unread_bytes of the server); this is the largest of them";
  }
  end(why);
}

// Null: all have been ended twice.
UnreadAnswers::Answer* UnreadAnswers::LargestOf(const Peer& peer) {
  Answer* largest = nullptr;
  for (Answer* answer : peer.answers) {
    if (answer->ends_ == 2 || answer->bytes_ == 0) continue;
    if (largest == nullptr || answer->bytes_ > largest->bytes_) largest = answer;
  }
  return largest;
}

int64_t UnreadAnswers::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace espalier
