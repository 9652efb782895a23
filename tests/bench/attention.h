#pragma once

#include "kernels/base/result.h"
#include "tests/bench/attention_options.h"
#include "tests/bench/report.h"

namespace espalier::bench {

// `espalier-bench attention`: tree attention alone. For each workload a KV pool of random numbers, and in
// each repeat every mode in turn, so that a machine that changes pace changes it for all of them. A row for
// each workload and mode.
//
// Fields of a row: bytes, operations and times are those of one layer and one step, the mean over the
// workload's steps; time_us the median over repeats, on a GPU by its own events, without planning.
// achieved_bytes_per_s: kv_read_bytes over time_us.median; bandwidth_ratio: that over the measured bandwidth,
// above 1 where shared KV comes from a cache. roofline_us: the longer of the least bytes (every visible K and
// V once, queries, output) at the measured bandwidth and flop at the measured rate; roofline_memory_us,
// roofline_products_us: the two; limit: which is the longer, "memory" or "products". plan_costs: what
// the planner used (PlanCosts). speedup_over_sequence and _masked: of the median times; null where that
// mode did not run. max_error_over_ref: against fp64 over `checked_rows` rows of the last step, in parts of
// the largest value; null where none is checked. peer_us: times of kernels that ran elsewhere (time_list.h)
// by name; speedup_over_peers: the same over time_us.median; null where a peer has no time for the workload.
//
// Progress goes to standard error. Errors name the flag at fault where there is one.
Result<Report> RunAttention(const AttentionOptions& options);

}  // namespace espalier::bench
