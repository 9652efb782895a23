#pragma once

#include "kernels/base/result.h"
#include "tests/bench/report.h"
#include "tests/bench/serve_options.h"

namespace espalier::bench {

// `espalier-bench serve`: loads a server that runs elsewhere, and checks all that comes back. A row for each
// workload and number of clients (closed loop: a client sends its next request when its last has ended) or
// rate (open loop: Poisson arrivals, whatever the server does).
//
// Fields of a row. All times begin when a request was due: in the open loop at its arrival, even where the
// client was late to send it.
//   duration_s              from the first request to the last answer
//   output_tokens_per_s, requests_per_s      over duration_s
//   first_token_us          until the first generated token has come in
//   per_output_token_us     from there to the end, divided by the generated tokens of the longest path but
//                           the first
//   total_us                until the stream has ended
//   server_first_token_us   the server's own figure: from the request's arrival there
//   errors, refused         by gRPC code; RESOURCE_EXHAUSTED among them
//   prompt_tokens, cached_tokens, prefix_hit_rate      sums of the answers' usage, and their ratio
//   faults                  checks that failed: streams that break off, tokens, texts or branches that are
//                           missing or differ between deltas, end and usage; server counters that disagree;
//                           blocks left behind
//   server_cpu_s, output_tokens_per_cpu_s    processor time of the server, if --server-pid is given; else 0
//   client_cpu_s            processor time of this program: where it nears duration_s, it is what is being
//                           measured
// From the server's counters, before to after: steps, preemptions, evicted_blocks, rows_per_step
// (computed_tokens / steps), and where the engine's thread spent the run: step_share (of which plan_share,
// forward_share and its attention_share), deliver_share (handing out events), idle_share (waiting for
// requests): parts of duration_s. kv_read_bytes, kv_read_bytes_sequence and plan_us: per step. partial_bytes,
// mask_bytes, flop, roofline_us and roofline_ratio are 0, and so are the peaks: a server does not report
// them.
//
// Progress goes to standard error. Errors name the flag at fault where there is one; kUnavailable: no server
// answers.
Result<Report> RunServe(const ServeOptions& options);

}  // namespace espalier::bench
