#pragma once

#include <random>

#include "engine/tree_request.h"

namespace espalier::test {

// A random small request that ValidateTreeRequest accepts. Prompts come from a few families, so that requests
// often share prefixes. `with_text`: stop strings of the fake tokenizer's vocabulary may be asked for.
TreeRequest RandomRequest(std::mt19937_64* random, const EngineLimits& limits, bool with_text);

}  // namespace espalier::test
