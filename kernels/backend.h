#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/result.h"
#include "kernels/step_input.h"

namespace espalier {

// Handles of objects that live on the device for the life of the backend.
enum class MatrixId : int32_t { kNone = -1 };
enum class VectorId : int32_t { kNone = -1 };
enum class RotaryId : int32_t { kNone = -1 };
enum class KvId : int32_t { kNone = -1 };
enum class ActivationId : int32_t { kNone = -1 };

// A tensor in host memory as the checkpoint stores it: row-major [rows, cols], or a vector with rows == 1.
struct HostTensor {
  const void* data = nullptr;  // little-endian; need not be aligned
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
};

// What an activation buffer holds. The backend chooses the type it computes best in.
enum class ActivationKind : uint8_t {
  kResidual,  // the residual stream and outputs of MatMul; fp32 on the CPU
  kOperand,   // input of MatMul: the compute type
};

// Rows of logits that a device holds at a time.
inline constexpr int32_t kMaxLogitRows = 64;

enum class MatMulMode : uint8_t { kOverwrite, kAccumulate };

// What becomes of a layer's queries and keys between their projection and attention: each head is normalised,
// then turned.
struct QueryKeySpec {
  RotaryId rotary = RotaryId::kNone;      // kNone: heads carry no position
  VectorId query_norm = VectorId::kNone;  // [head_dim], the same for all heads: RmsNorm of each; kNone: none
  VectorId key_norm = VectorId::kNone;
  float epsilon = 0.0F;  // of both norms
};

// What a layer's attention sees.
struct AttentionSpec {
  int32_t window = 0;  // a row sees the last so many tokens of its path, its own among them; 0: all of it
};

struct BackendOptions {
  std::string name = "cpu";        // auto (cuda where it works, else cpu), cpu, ref, cuda
  std::string isa = "auto";        // cpu: auto, amx, avx512, avx2, portable
  DType dtype = DType::kBFloat16;  // of weights, KV and matrix operands; ref computes in fp32 always
  // Of MatMul. With kInt8 their operands are int8 too, made from fp32 (kernels/base/int8.h); tables,
  // norms, biases and KV stay in dtype.
  WeightType weights = WeightType::kDType;
  int32_t threads = 0;        // cpu: 0 means every core this process may use
  int32_t max_rows = 512;     // the most rows of a step
  std::string fallback = "";  // set by CreateBackend: BackendInfo::fallback
};

struct BackendInfo {
  std::string name;    // as BackendOptions::name
  std::string device;  // the processor's own name
  std::string isa;     // instruction set in use, e.g. "avx512_bf16"
  DType dtype = DType::kBFloat16;
  WeightType weights = WeightType::kDType;
  int32_t threads = 1;
  std::string fallback;         // why `auto` took no GPU; empty where it did, or was not asked to choose
  int32_t steps_in_flight = 1;  // how many steps may be issued before the first is waited for
  // KV memory holds heads of a multiple of so many dims, the last of them zeros: AttentionShape::stored_dim.
  int32_t head_dim_multiple = 1;
  PlanOptions plan;  // what PlanAttention needs to know of the kernels
};

// Where devices meet: the operations of a decoder's forward pass on opaque device objects. The model code
// that calls them exists once. Not thread-safe: one thread calls.
//
// Set-up calls come before the first step and return errors (out of memory, unsupported shape). A step is
// BeginStep, operations in order, EndStep; they may run asynchronously and then see the StepInput until Wait
// returns (shared ownership). At most info().steps_in_flight steps between EndStep and Wait. An operation
// works on the rows that its input holds: Embed and GatherLogitRows set that number, others pass it on.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  // Bytes that a KV pool may take when all else has been added; 0 where the backend does not know.
  virtual int64_t FreeKvBytes() { return 0; }

  // Set-up. Rows of the parts are stacked: {q, k, v} become one [sum of rows, cols] matrix. The host memory
  // is not used after the call.
  virtual Result<MatrixId> AddMatrix(std::span<const HostTensor> parts) = 0;
  // A matrix for Embed, kept in dtype. Where weights have that type too, it serves MatMul as well.
  virtual Result<MatrixId> AddTable(std::span<const HostTensor> parts) { return AddMatrix(parts); }
  virtual Result<VectorId> AddVector(std::span<const HostTensor> parts) = 0;
  // Rotary angles: position * inv_freq[i] turns the pair (i, i + head_dim / 2); [head_dim / 2] fp32.
  // Positions [0, max_positions).
  virtual Result<RotaryId> AddRotary(std::span<const float> inv_freq, int32_t max_positions) = 0;
  // A paged KV pool of `blocks` blocks, zeroed. The layout inside a block is the backend's own. Block ids of
  // all pools of a backend run alike, so that a second model can share them.
  virtual Result<KvId> AddKv(const AttentionShape& shape, int32_t blocks, int32_t block_tokens) = 0;
  // A buffer of [max_rows, cols].
  virtual Result<ActivationId> AddActivation(ActivationKind kind, int64_t cols) = 0;

  // A step.
  virtual void BeginStep(std::shared_ptr<const StepInput> step) = 0;
  // out[row] = table[token of row]; resolves references to sequence slots.
  virtual void Embed(MatrixId table, ActivationId out) = 0;
  // out = in / sqrt(mean(in^2) + epsilon) * weight
  virtual void RmsNorm(ActivationId in, VectorId weight, float epsilon, ActivationId out) = 0;
  // out = in * w^T + bias, or out += in * w^T + bias. bias may be kNone.
  virtual void MatMul(ActivationId in, MatrixId w, VectorId bias, MatMulMode mode, ActivationId out) = 0;
  // qkv: [rows, (query_heads + 2 * kv_heads) * head_dim]. Normalises and turns Q and K as `spec` says, in
  // place, and writes K and V to each row's slot.
  virtual void RotaryAndStore(KvId kv, int32_t layer, const QueryKeySpec& spec, ActivationId qkv) = 0;
  // out [rows, query_heads * head_dim] = softmax(q k^T / sqrt(head_dim)) v over what each row sees, by the
  // step's plan, which holds whole paths: one plan serves layers with a window and without.
  virtual void TreeAttention(KvId kv, int32_t layer, const AttentionSpec& spec, ActivationId qkv,
                             ActivationId out) = 0;
  // in: [rows, 2 * cols] gate then up; out [rows, cols] = silu(gate) * up
  virtual void SwiGlu(ActivationId in, ActivationId out) = 0;
  // out = the rows StepInput::logit_rows of in, compacted.
  virtual void GatherLogitRows(ActivationId in, ActivationId out) = 0;
  // Logits of the gathered rows `in` by `head` [vocab, hidden]: of kMaxLogitRows, or as many as are left,
  // from first_row on, a multiple of kMaxLogitRows. They stay until the next call, for what stands between
  // them and sampling.
  virtual void Logits(ActivationId in, MatrixId head, int32_t first_row) = 0;
  // The step's samples and scores of the rows of the last Logits. Each row once, in ascending order.
  virtual void Sample() = 0;
  virtual void EndStep() = 0;

  // The result of the oldest step not yet waited for; blocks. An error (device lost) ends the backend's use.
  virtual Result<StepResult> Wait() = 0;

  // For tests and debugging, synchronous. Values are [rows, cols] in fp32, whatever type the buffer has;
  // writing sets the number of rows that the buffer holds.
  virtual void WriteActivation(ActivationId activation, std::span<const float> values) = 0;
  virtual std::vector<float> ReadActivation(ActivationId activation) = 0;
  // For benchmarks, within a step: the next operation finds nothing in the device's caches. Does nothing
  // where a backend has no means; there only more memory than the caches hold helps.
  virtual void FlushCaches() {}
};

// How many rows Logits computes from `first_row` on; aborts where it may not begin there.
int32_t LogitRowsFrom(const StepInput& step, int32_t first_row);
// Logits and Sample for all the gathered rows `in` of a step, with nothing between the two.
void SampleAll(Backend& backend, ActivationId in, MatrixId head, const StepInput& step);

// Errors name the flag at fault: an unknown backend or instruction set, one this machine lacks, no device.
Result<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

}  // namespace espalier
