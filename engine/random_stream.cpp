#include "engine/random_stream.h"

#include "kernels/base/mix.h"

namespace espalier {

uint64_t RootStream(uint64_t seed) { return Mix(seed + kGoldenStep); }

uint64_t ChildStream(uint64_t parent_stream, int32_t ordinal) {
  // The ordinal is mixed first: else parents whose keys are close would share the keys of their children.
  return Mix(parent_stream + Mix((static_cast<uint64_t>(ordinal) + 1) * kGoldenStep));
}

std::vector<int32_t> FirstOrdinals(const TreeRequest& request) {
  std::vector<int32_t> first(request.nodes.size(), 0);
  std::vector<int32_t> next(request.nodes.size(), 0);  // ordinal of the next child of the branches at a node
  std::vector<size_t> self(request.nodes.size(),
                           0);  // the node; of a select: the node whose branches it keeps
  for (size_t i = 1; i < request.nodes.size(); ++i) {
    const TreeNodeSpec& node = request.nodes[i];
    const size_t parent = self[static_cast<size_t>(node.parent)];
    if (std::holds_alternative<SelectSpec>(node.content)) {
      self[i] = parent;
      continue;
    }
    self[i] = i;
    const GenerateSpec* generate = std::get_if<GenerateSpec>(&node.content);
    first[i] = next[parent];
    next[parent] += generate != nullptr ? generate->branches : 1;
  }
  return first;
}

}  // namespace espalier
