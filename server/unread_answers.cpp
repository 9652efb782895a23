#include "server/unread_answers.h"

#include <algorithm>
#include <utility>

namespace espalier {

UnreadAnswers::Answer::~Answer() {
  if (!counted_) return;
  const MutexLock lock(all_->mutex_);
  const auto peer = all_->peers_.find(peer_);
  const auto waiting = peer->second.answers.find(this);
  all_->bytes_ -= waiting->second.bytes;
  peer->second.bytes -= waiting->second.bytes;
  peer->second.answers.erase(waiting);
  if (peer->second.answers.empty()) all_->peers_.erase(peer);
}

std::unique_ptr<UnreadAnswers::Answer> UnreadAnswers::Open(const std::string& peer,
                                                           std::function<void(const std::string&)> end) {
  std::unique_ptr<Answer> answer(new Answer(shared_from_this(), peer, std::move(end)));
  const MutexLock lock(mutex_);
  peers_[peer].answers.try_emplace(answer.get());
  answer->counted_ = true;
  return answer;
}

void UnreadAnswers::Add(Answer* answer, int64_t bytes) {
  std::function<void(const std::string&)> end;
  std::string why;
  {
    const MutexLock lock(mutex_);
    Peer* peer = &peers_.at(answer->peer_);
    peer->answers.at(answer).bytes += bytes;
    peer->bytes += bytes;
    bytes_ += bytes;
    const bool too_much = bytes_ > kPeers * max_bytes_;
    if (bytes <= 0 || (peer->bytes <= max_bytes_ && !too_much)) return;
    if (peer->bytes <= max_bytes_) {
      const auto max = std::max_element(peers_.begin(), peers_.end(), [](const auto& a, const auto& b) {
        return a.second.bytes < b.second.bytes;
      });
      peer = &max->second;
    }
    const auto largest = LargestOf(*peer);
    if (largest == peer->answers.end()) return;
    ++largest->second.ends;
    end = largest->first->end_;
    why = "not read: " + std::to_string(peer->bytes) +
          " bytes of answers wait for this client, which may let " + std::to_string(max_bytes_) +
          " wait (max_unread_bytes of the server); this is the largest of them";
  }
  end(why);
}

// End: all were asked to end twice.
std::map<UnreadAnswers::Answer*, UnreadAnswers::Waiting>::iterator UnreadAnswers::LargestOf(Peer& peer) {
  auto largest = peer.answers.end();
  for (auto each = peer.answers.begin(); each != peer.answers.end(); ++each) {
    const Waiting& waiting = each->second;
    if (waiting.ends == 2 || waiting.bytes == 0) continue;
    if (largest == peer.answers.end() || waiting.bytes > largest->second.bytes) largest = each;
  }
  return largest;
}

int64_t UnreadAnswers::bytes() const {
  const MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace espalier
