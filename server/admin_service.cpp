#include "server/admin_service.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "server/peer.h"

namespace espalier {
namespace {

v1::GetStatsResponse ToProto(const EngineStats& stats, int64_t unread_bytes) {
  v1::GetStatsResponse response;
  response.set_block_tokens(stats.block_tokens);
  response.set_blocks_total(stats.blocks_total);
  response.set_blocks_free(stats.blocks_free);
  response.set_blocks_indexed(stats.blocks_indexed);
  response.set_blocks_live(stats.blocks_live);
  response.set_blocks_scratch(stats.blocks_scratch);
  response.set_requests_active(stats.requests_active);
  response.set_requests_queued(stats.requests_queued);
  response.set_branches_active(stats.branches_active);
  response.set_steps(stats.steps);
  response.set_preemptions(stats.preemptions);
  response.set_evicted_blocks(stats.evicted_blocks);
  response.set_cancelled(stats.cancelled);
  response.set_finished(stats.finished);
  response.set_computed_tokens(stats.computed_tokens);
  response.set_generated_tokens(stats.generated_tokens);
  response.set_cached_tokens(stats.cached_tokens);
  response.set_kv_read_bytes(stats.kv_read_bytes);
  response.set_kv_read_bytes_sequence(stats.kv_read_bytes_sequence);
  response.set_step_us(stats.step_us);
  response.set_plan_us(stats.plan_us);
  response.set_forward_us(stats.forward_us);
  response.set_attention_us(stats.attention_us);
  response.set_deliver_us(stats.deliver_us);
  response.set_idle_us(stats.idle_us);
  response.set_peers_active(stats.peers_active);
  response.set_unread_bytes(unread_bytes);
  return response;
}

v1::GetTreeSnapshotResponse ToProto(const TreeSnapshot& tree, bool with_tokens) {
  v1::GetTreeSnapshotResponse response;
  for (const KvNodeSnapshot& snapshot : tree.nodes) {
    v1::KvNode& node = *response.add_nodes();
    node.set_id(snapshot.id);
    node.set_parent_id(snapshot.parent);
    node.set_begin_position(snapshot.begin_position);
    node.set_tokens(snapshot.tokens);
    node.set_computed_tokens(snapshot.computed_tokens);
    node.set_blocks(snapshot.blocks);
    node.set_pins(snapshot.pins);
    node.set_indexed(snapshot.indexed);
    if (!with_tokens) continue;
    node.mutable_first_token_ids()->Add(snapshot.first_token_ids.begin(), snapshot.first_token_ids.end());
  }
  return response;
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::GetStats(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* response) {
  return ServeUnary<v1::GetStatsRequest>(
      methods_, context, request, response, [this](const v1::GetStatsRequest& /*message*/) {
        return Result<v1::GetStatsResponse>(ToProto(engine_.Stats(), methods_.unread.bytes()));
      });
}

grpc::ServerUnaryReactor* AdminService::GetTreeSnapshot(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return ServeUnary<v1::GetTreeSnapshotRequest>(
      methods_, context, request, response,
      [this, context](const v1::GetTreeSnapshotRequest& message) {
        if (message.include_tokens())
          spdlog::info("admin     {} takes a snapshot with tokens", PeerOfCall(context->peer()).connection);
        return Result<v1::GetTreeSnapshotResponse>(ToProto(engine_.Snapshot(), message.include_tokens()));
      },
      /*waits=*/true);
}

grpc::ServerUnaryReactor* AdminService::FlushCache(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return ServeUnary<v1::FlushCacheRequest>(
      methods_, context, request, response,
      [this](const v1::FlushCacheRequest& /*message*/) {
        v1::FlushCacheResponse flushed;
        flushed.set_blocks_freed(engine_.FlushCache());
        return Result<v1::FlushCacheResponse>(std::move(flushed));
      },
      /*waits=*/true);
}

grpc::ServerGenericBidiReactor* AdminElsewhere::CreateReactor(grpc::GenericCallbackServerContext* context) {
  class Refusal final : public grpc::ServerGenericBidiReactor {
   public:
    explicit Refusal(const std::string& why) { Finish({grpc::StatusCode::UNIMPLEMENTED, why}); }
    void OnDone() override { delete this; }
  };
  const std::string prefix = std::string("/") + v1::AdminService::service_full_name() + "/";
  if (!context->method().starts_with(prefix)) return new Refusal("");
  return new Refusal(address_.empty() ? "AdminService is off on this server: --admin-listen turns it on"
                                      : "AdminService does not listen here but at " + address_ +
                                            " of the server's machine (--admin-listen)");
}

}  // namespace espalier
