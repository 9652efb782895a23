#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

// What the measurements of cuda_ceilings share. An error ends the program.
namespace espalier::ceilings {

void Check(cudaError_t error, const char* what);

class Bench {
 public:
  Bench();
  // Median microseconds of what `body` puts on the stream.
  double Time(const std::function<void()>& body);
  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// Device memory of random words or, with bf16, of pairs of random numbers in (-2, 2).
unsigned char* RandomMemory(int64_t bytes, bool bf16);

// Print members of a JSON object: reads from memory and from the second-level cache into shared memory, by
// bytes of a copy and bytes in flight on each multiprocessor. By cp.async, 16 bytes a thread:
void MeasureReads(Bench& bench, const cudaDeviceProp& device);
// By bulk copies (cp.async.bulk), which first show that they bring every word; says so where the device has
// none.
void MeasureBulkReads(Bench& bench, const cudaDeviceProp& device);

}  // namespace espalier::ceilings
