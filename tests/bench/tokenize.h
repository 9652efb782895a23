#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/result.h"
#include "tests/bench/report.h"

namespace espalier::bench {

struct TokenizeOptions {
  std::string tokenizer;             // folder or file
  std::string text;                  // file; empty: texts of our own of every kind and size
  std::vector<std::string> kinds;    // of TextKinds()
  std::vector<int32_t> sizes_bytes;  // of each kind
  std::string keep_texts;            // folder that gets each text as a file; empty: none
  int32_t repeats = 5;               // measurements, of which the median counts
  double least_ms = 20.0;            // a measurement encodes again and again for so long
};

// `espalier-bench tokenize`: encodes texts with one thread, without special tokens, as the start of a
// sequence. A row for each text.
//
// Fields of a row: kind, bytes, tokens; encode_us: CPU time of the thread for one Encode, which other
// programs on the machine do not add to; mb_per_s (10^6 bytes) and tokens_per_s at that time; ns_per_byte,
// which stays where it is while time is linear in the length of the text; ids_fnv1a: FNV-1a (64 bit,
// hexadecimal) of the ids as 32-bit little-endian numbers, by which another program can check that it got the
// same.
//
// Progress goes to standard error. Errors name the flag at fault where there is one.
Result<Report> RunTokenize(const TokenizeOptions& options);

}  // namespace espalier::bench
