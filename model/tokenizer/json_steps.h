#pragma once

#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "model/tokenizer/json_field.h"

namespace espalier {

// The "type" of a component of tokenizer.json.
Result<std::string> TypeOf(const JsonField& component);

Error NotSupported(const JsonField& field, const std::string& what);

// The steps of a component in their order: itself, or what the Sequence that it is holds under `list_name`,
// Sequences within it included.
Result<std::vector<JsonField>> Steps(const JsonField& component, const std::string& list_name);

// The member `name`, a string that is one character.
Result<std::string> ReadCharacter(const JsonField& step, const std::string& name);

}  // namespace espalier
