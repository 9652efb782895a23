#pragma once

#include <string>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "tests/bench/attention_options.h"
#include "tests/bench/report.h"

// A plain JSON list of attention's workloads and times. `espalier-bench attention --shapes-out FILE` writes
// it, another program (another kernel, in any language) reads the shapes, adds its times or
// writes a list with nothing else, and `--peer-times FILE` compares those with ours. An array, an object for
// each workload:
//
//   "workload"    its name, by which times are matched: "1,50;4000,200"
//   "dtype", "query_heads", "kv_heads", "head_dim", "query_rows", "kv_tokens"
//                 the same, those that are given; the last two are sums over the steps, each token of a
//                 tree once
//   "times_us"    {"name of a kernel": microseconds of one layer and one step, the mean over the steps, ...}
//   "steps"       shapes, an object for each step; not read back:
//     "node_parent"    [nodes] index of an earlier node, -1: the root of a tree
//     "node_tokens"    [nodes] tokens whose K and V lie at the node, those of this step's rows included
//     "node_rows"      [nodes] query rows of this step at the node
//     "row_node"       [rows] the node of each query row
//     "row_parent"     [rows] the row whose token this row's token follows; -1: the last token before this
//                      step
//     "row_kv_tokens"  [rows] tokens that the row sees, itself included
//     "row_path"       [rows] the nodes of its path, root first; all their tokens but those of other rows
//                      that do not lie on the row_parent chain
//
// Rows stand in the order of their nodes. Where every node has at most one row, as in decoding, a row
// sees all node_tokens of its row_path.
namespace espalier::bench {

// Errors name the flag peer-times, the file, and what is wrong with which entry.
Result<std::vector<PeerEntry>> ReadPeerTimes(const std::string& path);

// The times of all entries that are about this workload and shape; of equal names the last one's.
PeerTimes TimesOf(const std::vector<PeerEntry>& entries, const AttentionWorkload& workload,
                  const AttentionShape& shape);

// The list, with the median times of `rows`, a report's, under names like "espalier flatten, cuda". Arrays of
// numbers stand in a line each.
std::string ShapeList(const std::vector<AttentionWorkload>& workloads, const AttentionShape& shape,
                      const std::vector<Json>& rows);

}  // namespace espalier::bench
