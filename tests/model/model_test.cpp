// What does not depend on how a text is computed: in chunks, together with others, as a tree, from which
// storage.
#include <algorithm>
#include <cmath>

#include "model/backend_runner.h"
#include "model/hashed_weights.h"
#include "tests/model/model_folder.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/simple_decoder.h"

namespace espalier::test {
namespace {

constexpr int32_t kBlockTokens = 16;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab_size = 301;
  config.hidden_size = 96;
  config.intermediate_size = 160;
  config.layers.resize(3);
  config.query_heads = 6;
  config.kv_heads = 2;
  config.head_dim = 32;
  config.max_positions = 512;
  return config;
}

// A small model in fp32, or null (the test is then marked as skipped) where the program lacks the backend.
std::unique_ptr<ModelRunner> SmallModel(const std::string& backend) {
  RunnerOptions options;
  options.backend.name = backend;
  options.backend.dtype = DType::kFloat32;
  options.backend.threads = 2;
  options.backend.max_rows = 128;
  options.block_tokens = kBlockTokens;
  options.kv_blocks = 64;
  auto runner = RandomModel(SmallConfig(), 7, options);
  if (runner) return std::move(*runner);
  if (runner.error().code != ErrorCode::kUnimplemented) FAIL(runner.error().ToString());
  SkipTest(runner.error().ToString());
  return nullptr;
}

// Tokens that repeat rarely: a fixed walk over the vocabulary.
std::vector<int32_t> Walk(int32_t start, int32_t count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i)
    tokens.push_back((start + i * 89 + i * i * 7) % SmallConfig().vocab_size);
  return tokens;
}

double LargestDifference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    REQUIRE(std::isfinite(difference));
    largest = std::max(largest, difference);
  }
  return largest;
}

void CheckChunks(const std::string& backend) {
  const auto runner = SmallModel(backend);
  if (!runner) return;
  SimpleDecoder decoder(*runner);
  const auto tokens = Walk(3, 100);
  const auto whole = decoder.AllLogits(tokens, 100);
  REQUIRE(whole.ok());
  for (const int32_t chunk : {1, 7, 16, 33}) {
    const auto chunked = decoder.AllLogits(tokens, chunk);
    REQUIRE(chunked.ok());
    INFO("chunk " << chunk);
    CHECK(LargestDifference(*whole, *chunked) < 1e-5);
  }
}

void CheckBatch(const std::string& backend) {
  const auto runner = SmallModel(backend);
  if (!runner) return;
  SimpleDecoder decoder(*runner);
  const std::vector<std::vector<int32_t>> prompts = {Walk(1, 5), Walk(2, 40), Walk(3, 1), Walk(4, 17)};
  const auto together = decoder.Greedy(prompts, 24, 32);
  REQUIRE(together.ok());
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = decoder.Greedy({prompts[i]}, 24, 128);
    REQUIRE(alone.ok());
    CHECK(alone->front() == (*together)[i]);
  }
}

// One step over the tree
//   trunk of 32 tokens (rows) --- a: 5 tokens
//                              +- b: a token tree: 0 - 1 - 2
//                                                  +- 3 - 4
// Rows of b are at positions 32, 33, 34, 33, 34.
std::shared_ptr<StepInput> TreeStep(const ModelInfo& info, const std::vector<int32_t>& trunk,
                                    const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  auto step = std::make_shared<StepInput>();
  TreeBatch& batch = step->batch;
  batch.block_tokens = kBlockTokens;
  batch.blocks = {4, 9, 2, 7};
  step->zero_blocks = batch.blocks;
  batch.nodes = {{.parent = -1,
                  .begin_position = 0,
                  .cached_tokens = 0,
                  .first_block = 0,
                  .first_row = 0,
                  .rows = 32,
                  .subtree_end_row = 42},
                 {.parent = 0,
                  .begin_position = 32,
                  .cached_tokens = 0,
                  .first_block = 2,
                  .first_row = 32,
                  .rows = 5,
                  .subtree_end_row = 37},
                 {.parent = 0,
                  .begin_position = 32,
                  .cached_tokens = 0,
                  .first_block = 3,
                  .first_row = 37,
                  .rows = 5,
                  .subtree_end_row = 42}};
  const auto add = [&](int32_t node, int32_t token, int32_t position, int32_t end) {
    batch.row_node.push_back(node);
    batch.row_position.push_back(position);
    batch.row_subtree_end.push_back(end);
    step->tokens.push_back({.token_id = token, .sequence_slot = -1});
    step->logit_rows.push_back(static_cast<int32_t>(step->logit_rows.size()));
  };
  for (int32_t i = 0; i < 32; ++i) add(0, trunk[static_cast<size_t>(i)], i, 42);
  for (int32_t i = 0; i < 5; ++i) add(1, a[static_cast<size_t>(i)], 32 + i, 37);
  const int32_t positions[] = {32, 33, 34, 33, 34};
  const int32_t ends[] = {42, 40, 40, 42, 42};
  for (size_t i = 0; i < 5; ++i) add(2, b[i], positions[i], ends[i]);
  step->return_logits = true;
  const auto status = ValidateBatch(batch);
  if (!status.ok()) FAIL(status.error().ToString());
  step->plan = PlanAttention(batch, info.attention, info.backend.plan);
  return step;
}

void CheckTree(const std::string& backend) {
  const auto runner = SmallModel(backend);
  if (!runner) return;
  const auto trunk = Walk(5, 32);
  const auto a = Walk(50, 5);
  const auto b = Walk(60, 5);
  runner->Issue(TreeStep(runner->info(), trunk, a, b));
  const auto result = runner->Wait();
  REQUIRE(result.ok());
  const auto vocab = static_cast<size_t>(runner->info().vocab_size);
  const std::span<const float> tree(result->logits);
  REQUIRE(tree.size() == 42 * vocab);

  // Each path through the tree as a text of its own; `rows` are its rows in the tree after the trunk.
  SimpleDecoder decoder(*runner);
  const auto check_path = [&](const std::vector<int32_t>& tail, const std::vector<size_t>& rows) {
    auto text = trunk;
    text.insert(text.end(), tail.begin(), tail.end());
    const auto flat = decoder.AllLogits(text, 128);
    REQUIRE(flat.ok());
    for (size_t i = 0; i < rows.size(); ++i) {
      CHECK(LargestDifference(tree.subspan(rows[i] * vocab, vocab),
                              std::span(*flat).subspan((32 + i) * vocab, vocab)) < 1e-5);
    }
    CHECK(LargestDifference(tree.first(32 * vocab), std::span(*flat).first(32 * vocab)) < 1e-5);
  };
  check_path(a, {32, 33, 34, 35, 36});
  check_path({b[0], b[1], b[2]}, {37, 38, 39});
  check_path({b[0], b[3], b[4]}, {37, 40, 41});
}

TEST_CASE("prefill in chunks gives the logits of prefill at once, ref") { CheckChunks("ref"); }
TEST_CASE("prefill in chunks gives the logits of prefill at once, cpu") { CheckChunks("cpu"); }
TEST_CASE("greedy tokens are the same alone and in a batch, ref") { CheckBatch("ref"); }
TEST_CASE("greedy tokens are the same alone and in a batch, cpu") { CheckBatch("cpu"); }
TEST_CASE("rows of a tree give the logits of their own paths, ref") { CheckTree("ref"); }
TEST_CASE("rows of a tree give the logits of their own paths, cpu") { CheckTree("cpu"); }

TEST_CASE("hashed weights are exact in every type, and the same in a folder of any form") {
  RunnerOptions options;
  options.backend.name = "ref";
  options.backend.dtype = DType::kFloat32;
  options.kv_blocks = 8;
  const std::vector<int32_t> tokens = {1, 7, 39, 0, 22, 22, 5};
  std::vector<float> expected;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const size_t shards : {size_t{1}, size_t{4}}) {
      const TempFolder folder;
      WriteModel(folder, TinyConfig(), HashedTensors(TinyConfig(), 11, dtype), shards);
      auto runner = LoadModel(folder.path(), options);
      if (!runner) FAIL(runner.error().ToString());
      SimpleDecoder decoder(**runner);
      const auto logits = decoder.AllLogits(tokens, 16);
      REQUIRE(logits.ok());
      if (expected.empty()) expected = *logits;
      CHECK(*logits == expected);
    }
  }
}

TEST_CASE("hashed weights follow their rule") {
  const auto source = MakeHashedWeights(0, DType::kFloat32);
  const auto get = [&](const std::string& name, std::vector<int64_t> shape) {
    const auto tensor = source->Get(name, shape, DType::kFloat32);
    REQUIRE(tensor.ok());
    const auto* data = static_cast<const float*>(tensor->tensor.data);
    return std::vector<float>(data, data + tensor->tensor.rows * tensor->tensor.cols);
  };
  CHECK(HashedTensorKey("", 0) == 0xcbf29ce484222325ULL);
  CHECK(HashedTensorKey("a", 0) == 0xaf63dc4c8601ec8cULL);  // published test value of FNV-1a
  for (const float value : get("x.norm.weight", {500})) CHECK((value >= 0.75F && value < 1.25F));
  for (const float value : get("x.bias", {500})) CHECK(std::abs(value) < 0.25F);
  const auto matrix = get("x.weight", {100, 256});
  double squares = 0.0;
  for (const float value : matrix) {
    CHECK(std::abs(value) < 0.125F);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  // Uniform over (-1/8, 1/8): variance 1/192.
  CHECK(std::abs(squares / static_cast<double>(matrix.size()) * 192.0 - 1.0) < 0.05);
  CHECK(get("x.weight", {100, 256}) == matrix);
  CHECK(get("y.weight", {100, 256}) != matrix);
}

}  // namespace
}  // namespace espalier::test
