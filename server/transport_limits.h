#pragma once

#include <cstdint>

namespace espalier {

// Limits of a listening address for its clients' connections, before any request is read.
struct TransportLimits {
  int32_t max_connections = 0;                // 0: what the limit of open files allows, at most 10,000
  int32_t max_streams = 2048;                 // calls under way on one connection; clients let more wait
  int64_t memory_bytes = int64_t{1} << 30;    // that gRPC may hold for reading and writing
  int32_t handshake_timeout_ms = 10'000;      // for a new connection's first bytes
  int32_t idle_timeout_ms = 600'000;          // a connection without a call is closed then; 0: never
  int32_t keepalive_time_ms = 60'000;         // a peer that is silent for so long is pinged; 0: never
  int32_t keepalive_timeout_ms = 20'000;      // a peer that does not answer a ping for so long is dead
  int32_t min_client_ping_interval_ms = 300;  // clients that keep on pinging more often are disconnected
};

}  // namespace espalier
