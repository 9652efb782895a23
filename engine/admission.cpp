#include "engine/admission.h"

#include <algorithm>

namespace espalier {

void Admission::AdmitRequests() {
  if (requests_.runnable() && !requests_.first()->place.admitted()) Admit(requests_.first());
  const std::set<PeerShares::Head>& heads = requests_.peers().heads();
  bool overtakes = false;
  for (auto head = heads.begin(); head != heads.end();) {
    ScheduledRequest* request = requests_.at(head->place);
    const bool ahead = !turns_.HasTurn(*request);
    if (ahead && (overtakes || turns_.size() >= policy_.max_begun_requests))
      return;  // and so for all behind it
    const bool has_room = !overtakes && HasRoomFor(*request, ahead);
    if (has_room || (!ahead && pressure_.MayBeginByClaim(*request))) {
      Admit(request);
      if (!has_room) pressure_.ClaimToBegin(request);
      head = heads.begin();
      overtakes = false;
    } else {
      overtakes = true;
      ++head;
    }
  }
}

bool Admission::HasRoomFor(const ScheduledRequest& request, bool ahead) const {
  int32_t left = tails_.running();
  if (ahead)
    left =
        std::max(left, static_cast<int32_t>(tails_.blocks().total_blocks() * policy_.pool_left_to_earlier));
  return tails_.AvailableBlocks() >= request.place.wanted_blocks() + left;
}

void Admission::Admit(ScheduledRequest* request) {
  turns_.Add(request);
  requests_.Admit(request);
  if (std::exchange(request->started, true)) return;
  const TreeRequest& content = request->tree.request();
  const std::vector<int32_t>& prompt = std::get<GivenSpec>(content.nodes[0].content).token_ids;
  events_.Emit(
      request->id(),
      TreeStarted{.request_id = request->id(),
                  .seed = content.seed,
                  .prompt_tokens = static_cast<int32_t>(prompt.size()),
                  .cached_tokens = tails_.kv().Match(request->tails.cache_namespace(), prompt).tokens,
                  .prompt_token_ids = content.return_prompt_ids ? prompt : std::vector<int32_t>{}});
  updater_.Start(request);
}

}  // namespace espalier
