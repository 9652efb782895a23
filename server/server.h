#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/engine.h"
#include "kernels/base/result.h"
#include "model/tokenizer/tokenizer.h"
#include "server/config.h"

namespace espalier {

// A loaded model behind its gRPC services, with health and reflection.
class Server {
 public:
  // Loads the model, calls `loaded` if there is one, and listens. Errors name the setting or the file at
  // fault.
  static Result<std::unique_ptr<Server>> Start(const ServerConfig& config,
                                               const std::function<void()>& loaded = nullptr);

  // Serves an engine that exists already: what Start does after loading. For tests too.
  static Result<std::unique_ptr<Server>> Serve(const ServerConfig& config, std::unique_ptr<Engine> engine,
                                               std::shared_ptr<const Tokenizer> tokenizer);

  // Stops at once; see Drain for the gentle way.
  virtual ~Server() = default;

  virtual int port() const = 0;
  // config.listen with that port.
  virtual const std::string& address() const = 0;
  // Where AdminService listens: config.admin_listen with its real port. Empty: nowhere.
  virtual const std::string& admin_address() const = 0;
  virtual Engine& engine() = 0;

  // Health turns to NOT_SERVING and new requests get UNAVAILABLE; those running or queued may finish within
  // config.drain_timeout_ms and then end with UNAVAILABLE; readers that have stopped reading are cut off two
  // seconds later. Returns when the last call has ended. Call once.
  virtual void Drain() = 0;
};

}  // namespace espalier
