#include "server/transport_settings.h"

namespace espalier {

void AddTransportSettings(TransportLimits& limits, std::vector<Setting>& settings) {
  constexpr int64_t kDayMs = 86'400'000;
  auto add = [&settings](const char* key, auto& target, int64_t low, int64_t high, const char* help) {
    settings.push_back(IntegerSetting(key, target, low, high, help));
  };
  add("max_connections", limits.max_connections, 0, 1 << 20,
      "Connections at one time; 0: what the limit of open files allows, at most 10,000");
  add("max_streams", limits.max_streams, 1, 1 << 20, "Calls at one time on one connection; more wait");
  settings.push_back(BytesSetting("transport_memory_bytes", limits.memory_bytes, int64_t{16} << 20,
                                  int64_t{1} << 40,
                                  "Bytes that connections may hold for reading and writing"));
  add("handshake_timeout_ms", limits.handshake_timeout_ms, 100, kDayMs,
      "Time for a new connection to say something");
  add("idle_timeout_ms", limits.idle_timeout_ms, 0, kDayMs,
      "A connection without calls is closed after this time; 0: never");
  add("keepalive_time_ms", limits.keepalive_time_ms, 0, kDayMs,
      "A client that is silent for this time is pinged; 0: never");
  add("keepalive_timeout_ms", limits.keepalive_timeout_ms, 100, kDayMs,
      "A client that does not answer a ping in this time is dead: its requests are cancelled");
  add("min_client_ping_interval_ms", limits.min_client_ping_interval_ms, 1, kDayMs,
      "Clients that keep on pinging more often are disconnected");
}

}  // namespace espalier
