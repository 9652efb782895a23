#include "server/unread_message.h"

namespace espalier {

UnreadMessage::UnreadMessage(UnreadAnswers& unread, const std::string& peer,
                             grpc::CallbackServerContext& context)
    : call_(std::make_shared<Call>(context)) {
  answer_ = unread.Open(peer, [call = call_](const std::string& /*why*/) {
    const MutexLock lock(call->mutex);
    if (call->context != nullptr) call->context->TryCancel();
  });
}

UnreadMessage::~UnreadMessage() {
  const MutexLock lock(call_->mutex);
  call_->context = nullptr;
}

}  // namespace espalier
