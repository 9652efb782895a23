#include "server/worker_pool.h"

#include <algorithm>
#include <chrono>

namespace espalier {
namespace {

constexpr int64_t kMinRetryMs = 10;
constexpr int64_t kMaxRetryMs = 30'000;

}  // namespace

WorkerPool::WorkerPool(int threads, int64_t max_bytes) : max_bytes_(max_bytes) {
  try {
    for (int i = 0; i < std::max(threads, 2); ++i) threads_.emplace_back([this] { Run(); });
  } catch (...) {  // the system refused a thread: the destructor would wait for those that run for ever
    Stop();
    throw;
  }
}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
}

// The peer, if it may have so many bytes more; end: it may not.
WorkerPool::Peers::iterator WorkerPool::FindRoom(const std::string& peer, int64_t bytes) {
  const auto known = peers_.find(peer);
  const int64_t of_peer = bytes + (known == peers_.end() ? 0 : known->second.bytes);
  if (of_peer > max_bytes_ - bytes_) return peers_.end();
  return known == peers_.end() ? peers_.try_emplace(peer).first : known;
}

void WorkerPool::Count(Peers::iterator peer, int64_t bytes) {
  peer->second.bytes += bytes;
  bytes_ += bytes;
  if (peer->second.idle()) peers_.erase(peer);
}

bool WorkerPool::Add(const std::string& peer, int64_t bytes, Job* job) {
  std::list<Peers::iterator> turn(1);  // what needs memory comes first
  {
    const MutexLock lock(mutex_);
    const auto found = FindRoom(peer, bytes);
    if (found == peers_.end()) return false;
    found->second.waiting.push_back({job, bytes});
    Count(found, bytes);
    ++waiting_jobs_;
    turn.front() = found;
    if (found->second.waiting.size() == 1) turns_.splice(turns_.end(), turn);
  }
  changed_.NotifyOne();
  return true;
}

bool WorkerPool::Remove(const Job* job) {
  const MutexLock lock(mutex_);
  for (auto turn = turns_.begin(); turn != turns_.end(); ++turn) {
    const Peers::iterator peer = *turn;
    std::deque<Waiting>& waiting = peer->second.waiting;
    const auto found =
        std::find_if(waiting.begin(), waiting.end(), [job](const Waiting& each) { return each.job == job; });
    if (found == waiting.end()) continue;
    const int64_t bytes = found->bytes;
    waiting.erase(found);
    if (waiting.empty()) turns_.erase(turn);
    --waiting_jobs_;
    Count(peer, -bytes);
    return true;
  }
  return false;
}

int64_t WorkerPool::RetryAfterMs() const {
  const MutexLock lock(mutex_);
  const double us = job_us_ * static_cast<double>(waiting_jobs_) / static_cast<double>(threads_.size());
  return std::clamp(static_cast<int64_t>(us / 1000), kMinRetryMs, kMaxRetryMs);
}

// Whose turn it is; end: no job may start. The last idle thread is kept for peers that have none.
WorkerPool::Peers::iterator WorkerPool::Next() {
  for (const Peers::iterator peer : turns_) {
    if (peer->second.running == 0 || idle_threads_ > 1) return peer;
  }
  return peers_.end();
}

WorkerPool::Waiting WorkerPool::Take(Peers::iterator peer) {
  std::deque<Waiting>& waiting = peer->second.waiting;
  const Waiting taken = waiting.front();
  waiting.pop_front();
  --waiting_jobs_;
  ++peer->second.running;
  Count(peer, -taken.bytes);
  const auto turn = std::find(turns_.begin(), turns_.end(), peer);
  if (waiting.empty()) {
    turns_.erase(turn);
  } else {
    turns_.splice(turns_.end(), turns_, turn);
  }
  return taken;
}

void WorkerPool::Run() {
  MutexLock lock(mutex_);
  ++idle_threads_;
  while (true) {
    auto peer = peers_.end();
    while (!stopping_ && (peer = Next()) == peers_.end()) changed_.Wait(mutex_);
    if (stopping_) return;
    const Waiting next = Take(peer);
    --idle_threads_;
    lock.Unlock();
    const auto begin = std::chrono::steady_clock::now();
    next.job->Run();  // which may end its life
    const std::chrono::duration<double, std::micro> us = std::chrono::steady_clock::now() - begin;
    lock.Lock();
    ++idle_threads_;
    job_us_ += (us.count() - job_us_) / 8;
    --peer->second.running;
    Count(peer, 0);
  }
}

}  // namespace espalier
