#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/plan/attention_plan.h"
#include "server/transport_limits.h"

namespace espalier {

// All settings of the server. Read once at start, from a file and from flags (which win), then constant.
struct ServerConfig {
  std::string model;                             // Hugging Face folder; required
  std::string listen = "127.0.0.1:50051";        // HOST:PORT, port 0 takes any free one; or unix:PATH
  std::string port_file;                         // the port is written here once the server listens
  std::string admin_listen = "127.0.0.1:50052";  // AdminService's own address, like `listen`; "", "off": none
  bool admin_listen_given = false;               // set by the user: the server does not start without it
  std::string admin_port_file;                   // as port_file
  std::string backend = "auto";                  // auto, cpu, cuda, ref
  std::string isa = "auto";                      // auto, amx, avx512, avx2, portable
  DType dtype = DType::kBFloat16;                // weights, KV and matrix operands
  WeightType weights = WeightType::kDType;       // of matrix products
  int32_t threads = 0;                           // 0: every core that the process may use
  int64_t kv_cache_bytes = int64_t{1} << 30;     // size of the KV pool
  int32_t block_tokens = 16;                     // tokens of a KV block: 16 or 32
  int32_t max_positions = 0;                     // longest path in tokens; 0: as the model allows
  int32_t max_branches = 1024;                   // leaves alive at one time in one request
  int32_t max_batch_rows = 512;                  // rows of a step
  int32_t prefill_chunk_tokens = 256;            // prefill rows of a step while branches decode
  int32_t max_queued_requests = 1024;            // further requests are refused with RESOURCE_EXHAUSTED
  int64_t max_answer_bytes = int64_t{128} << 20;  // requests whose answers could be larger are refused
  int64_t max_unread_bytes = int64_t{256} << 20;  // of a peer's answers; where more wait, the largest ends
  AttentionMode attention_mode = AttentionMode::kFlatten;
  int64_t drain_timeout_ms = 10000;  // after SIGTERM, running trees may take this long to finish
  std::string log_level = "info";    // debug, info, warning, error
  TransportLimits transport;         // connections, streams, keepalive
  bool check_invariants = false;     // check blocks, batch and plan in full at every step
};

// Whether AdminService listens.
bool AdminListens(const ServerConfig& config);

// What the command line asked for.
struct ServerCommand {
  ServerConfig config;
  bool check_config = false;  // validate, print and exit
  bool show_help = false;
  bool show_version = false;
  std::string help;        // with show_help
  std::string completion;  // the script for the shell that --completion names; empty: not asked for
  // Every mistake of the file and the flags, as "FILE:LINE:COLUMN: key: why" or "--flag: why"; empty when the
  // command is sound. One of a file that is not valid JSON goes on over two more lines, which show the place.
  std::vector<std::string> problems;
  // For each setting that a file has given, by its flag: "FILE:LINE:COLUMN: key".
  std::map<std::string, std::string> places;
};

// Reads the command line and the configuration file that it names, and looks whether the folders they name
// are there. Does not print and does not exit.
ServerCommand ParseServerCommand(int argc, const char* const* argv);

// The configuration as a JSON object, in the form that a file has.
std::string ToJson(const ServerConfig& config);

}  // namespace espalier
