#include "server/writer_pool.h"

#include <utility>

namespace espalier {

WriterPool::WriterPool() {
  constexpr int kThreads = 2;  // so that a very large message does not delay others
  try {
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
  } catch (...) {  // the system refused a thread: the destructor would wait for those that run for ever
    Stop();
    throw;
  }
}

WriterPool::~WriterPool() { Stop(); }

void WriterPool::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
}

void WriterPool::Enqueue(std::shared_ptr<Sender> sender) {
  {
    const MutexLock lock(mutex_);
    queued_.push_back(std::move(sender));
  }
  changed_.NotifyOne();
}

void WriterPool::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stopping_ && queued_.empty()) changed_.Wait(mutex_);
    if (stopping_) return;
    const std::shared_ptr<Sender> next = std::move(queued_.front());
    queued_.pop_front();
    lock.Unlock();
    next->Send();
    lock.Lock();
  }
}

}  // namespace espalier
