#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "espalier/v1/tree.pb.h"

namespace espalier::cli {

using Json = nlohmann::ordered_json;

// Messages as the JSON objects of the client's --json output: snake_case, every field present, numbers as
// numbers.
Json ToJson(const v1::GenerateResponse& response);
Json ToJson(const v1::ContinuationScore& score, int index);
Json ScoreUsageToJson(const v1::Usage& usage);

// A message of numbers, texts, truth values and arrays of int32, field by field under the proto's own names,
// all of them.
Json MessageToJson(const google::protobuf::Message& message);

// The same printed: as JSON, or a field a line.
void PrintMessage(const google::protobuf::Message& message, bool as_json);

// Prints one object on a line of its own.
void PrintLine(const Json& object);

}  // namespace espalier::cli
