#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/v1/tree.pb.h"
#include "server/located_json.h"

namespace espalier::cli {

// A file with a GenerateRequest as JSON, field names as in proto/espalier/v1/tree.proto.
class TreeFile {
 public:
  // `name` stands in messages.
  TreeFile(std::string name, std::string text);

  // Sets a field of a node, as from --set NODE.FIELD=VALUE: "problem.text=...", "step.sampling.top_k=5". A
  // text is taken as it stands, other values are JSON. Returns what is wrong with it, or nothing.
  std::string Set(const std::string& assignment);

  // Fills the request, or returns every mistake of the file, each a line with its place.
  std::vector<std::string> Read(v1::GenerateRequest& request) const;

  // "FILE:LINE:COLUMN" of a field that the server names in an error, e.g. "nodes[3].generate.branches"; of
  // one that was set, "--set step.branches".
  std::string PlaceOf(const std::string& field) const;

 private:
  std::string name_;
  LocatedJson json_;
  LocatedJson::Json value_;                 // json_'s, with what was set
  std::map<std::string, std::string> set_;  // what was set: "nodes[3].generate.branches" as "step.branches"
};

}  // namespace espalier::cli
