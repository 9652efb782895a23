#pragma once

#include <vector>

#include "server/setting.h"
#include "server/transport_limits.h"

namespace espalier {

// Appends the settings of these limits; they refer to `limits`.
void AddTransportSettings(TransportLimits& limits, std::vector<Setting>& settings);

}  // namespace espalier
