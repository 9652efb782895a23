#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/forest.h"

// One list of cases for every backend, always against `ref`. ESPALIER_PARITY_BACKEND names the backend that a
// program is about; see CMakeLists.txt.
namespace espalier::test {

// A backend as one instruction set and type.
struct Candidate {
  std::string name;  // for messages: "cpu avx2 bfloat16"
  DType dtype = DType::kFloat32;
  std::unique_ptr<Backend> backend;
  WeightType weights = WeightType::kDType;
};

// Every instruction set and type of the backend that this machine has, each with room for `max_rows` rows.
// With int8 weights: none where the backend has none. ESPALIER_PARITY_ISA leaves one of the cpu's: for
// machines on which the others take too long.
std::vector<Candidate> MakeCandidates(int32_t max_rows, WeightType weights = WeightType::kDType);
std::unique_ptr<Backend> MakeRef(int32_t max_rows, WeightType weights = WeightType::kDType);
// The test case is skipped, saying so, where there is no candidate (no device).
bool SkipWithout(const std::vector<Candidate>& candidates);

// The largest normalised error of an operation that is still right: bf16 operands hold 8 bits, and their
// rounding errors average out over a sum.
double Tolerance(DType dtype);
// Of a candidate's operations. With int8 weights that of fp32: operands are made from fp32, the same in every
// backend.
double ToleranceOf(const Candidate& candidate);

// sqrt(sum (a - b)^2 / sum b^2): infinite if lengths differ or `actual` holds a NaN or an infinity.
double NormalisedError(std::span<const float> actual, std::span<const float> expected);

// Uniform random values of mean 0 and standard deviation `spread`. bf16 holds them exactly, so that every
// backend is given the same numbers.
std::vector<float> RandomValues(Random& random, size_t count, float spread = 1.0F);

// Adds a [rows, cols] matrix of fp32 values.
MatrixId AddMatrix(Backend& backend, const std::vector<float>& values, int64_t rows);
MatrixId AddTable(Backend& backend, const std::vector<float>& values, int64_t rows);
VectorId AddVector(Backend& backend, const std::vector<float>& values);
// An activation buffer full of NaN: whatever an operation leaves out shows.
ActivationId PoisonedActivation(Backend& backend, ActivationKind kind, int64_t cols, int32_t rows);
// Fills what exists with NaN again.
void Poison(Backend& backend, ActivationId activation, int64_t cols, int32_t rows);

// A step without samples over a batch; tokens are all 0.
std::shared_ptr<StepInput> MakeStep(const TreeBatch& batch);
// Begins the step, calls `body`, ends it and waits.
template <typename Body>
StepResult RunStep(Backend& backend, std::shared_ptr<const StepInput> step, Body body) {
  backend.BeginStep(std::move(step));
  body();
  backend.EndStep();
  Result<StepResult> result = backend.Wait();
  return std::move(result).value();
}
// A batch of `rows` rows for operations that look at nothing but the number of rows.
TreeBatch RowsOnly(int32_t rows);

// A KV pool of one layer filled with random values, and what attention over it needs.
class AttentionRig {
 public:
  AttentionRig(Backend& backend, const AttentionShape& shape, int32_t blocks, int32_t block_tokens,
               int32_t max_rows);

  // Writes every KV slot of the pool: the same values for the same seed on every backend.
  void Fill(uint32_t seed);
  const AttentionShape& shape() const { return shape_; }
  // Stores the rows' K and V and returns their attention [rows, query_heads * head_dim]. qkv: [rows, ...].
  std::vector<float> Attend(std::shared_ptr<const StepInput> step, std::span<const float> qkv);
  struct Attended {
    std::vector<float> qkv;  // as attention reads it: normalised and turned
    std::vector<float> attention;
  };
  Attended AttendAndTurn(std::shared_ptr<const StepInput> step, std::span<const float> qkv);
  // What Attend does to queries and keys: at first they are turned and have no norms.
  QueryKeySpec& spec() { return spec_; }
  // How many tokens a row of Attend sees; at first 0, all.
  void SetWindow(int32_t window) { attention_spec_.window = window; }
  int64_t qkv_cols() const;

 private:
  Backend& backend_;
  AttentionShape shape_;
  int32_t blocks_;
  int32_t block_tokens_;
  int32_t max_rows_;
  KvId kv_;
  QueryKeySpec spec_;
  AttentionSpec attention_spec_;
  ActivationId qkv_;
  ActivationId out_;
};

}  // namespace espalier::test
