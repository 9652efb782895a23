#pragma once

#include "kernels/base/result.h"
#include "tests/bench/decode_options.h"
#include "tests/bench/report.h"

namespace espalier::bench {

// `espalier-bench decode`: one random model, and for every number of branches and every mode a request that
// runs through the scheduler as the server runs it. A row for each.
//
// Fields of a row: bytes, operations, times and the roofline are those of one decode step: bytes, flop and
// roofline_us the mean, times the median over the decode steps of all repeats. flop holds MatMul and
// attention, roofline_us the longer of (weight_bytes + kv_read_bytes) at the measured bandwidth and flop at
// the measured rate; roofline_ratio = roofline_us / step_us.median. step_us is what a client waits;
// forward_us, attention_us and what is made of them (step_cost.h: AddReached) the device's own times.
// decode_tokens_per_s: all branches together, decode steps only. It and prefill_tokens_per_s: the median of
// the repeats. prefill_roofline_ratio: the same ratio for the whole prefill.
//
// Progress goes to standard error. Errors name the flag at fault where there is one.
Result<Report> RunDecode(const DecodeOptions& options);

}  // namespace espalier::bench
