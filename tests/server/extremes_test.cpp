// Random Generate messages with the most extreme numbers that a message can hold, through the codec and a
// real engine with a small model, on every backend. A message is refused with the name of a field that is out
// of its range, or answered: with tokens of the vocabulary, finite log-probabilities, greedily where nothing
// else is left to sample. ESPALIER_FUZZ_REQUESTS: how many for each backend; ESPALIER_FUZZ_SECONDS: or for
// how long; ESPALIER_TEST_SEED repeats a run.
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "model/backend_runner.h"
#include "server/tree_codec.h"
#include "tests/kernels/host_emulator.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"
#include "tests/support/isa.h"

namespace espalier::test {
namespace {

constexpr int32_t kMaxBranches = 16;
constexpr int32_t kMaxPositions = 128;
constexpr int32_t kBlocks = 128;
// Below this no inverse of a temperature is finite: sampling is greedy.
constexpr float kSmallestTemperature = 2.93874e-39F;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class Sink : public TreeEventSink {
 public:
  void OnEvent(TreeEvent event) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = std::holds_alternative<TreeFinished>(event) || std::holds_alternative<Error>(event);
    events_.push_back(std::move(event));
    if (ended_) changed_.notify_all();
  }
  std::vector<TreeEvent> Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
    return std::move(events_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TreeEvent> events_;
  bool ended_ = false;
};

// A message, and which of its fields are out of their range, by the proto's own words.
struct Message {
  v1::GenerateRequest request;
  std::set<std::string> bad;
};

class Generator {
 public:
  Generator(uint64_t seed, int32_t vocab) : random_(seed), vocab_(vocab) {}

  Message Next() {
    Message message;
    message.request.set_seed(random_());
    message.request.set_cache_bypass(Chance(20));
    v1::TreeNode& root = Add(message, "");
    for (uint64_t i = 1 + random_() % 20; i > 0; --i)
      root.mutable_given()->mutable_token_ids()->add_ids(static_cast<int32_t>((i * i) % 50));
    AddGenerate(message, "n0");
    if (Chance(30)) AddGenerate(message, "n1");
    if (Chance(40)) AddVerdict(message);
    return message;
  }

 private:
  bool Chance(uint64_t percent) { return random_() % 100 < percent; }
  template <typename T>
  T Pick(std::initializer_list<T> values) {
    return *(values.begin() + random_() % values.size());
  }

  float AnyFloat() {
    using Limits = std::numeric_limits<float>;
    switch (random_() % 3) {
      case 0:
        return Pick({Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(),
                     Limits::max(), Limits::lowest(), Limits::min(), -Limits::min(), Limits::denorm_min(),
                     -Limits::denorm_min(), 0.0F, -0.0F, std::bit_cast<float>(0x7f800001U)});
      case 1:
        return std::bit_cast<float>(static_cast<uint32_t>(random_()));
      default:
        return Pick({1e-40F, 2.9e-39F, 3e-39F, 1e-30F, 0x1.fffffep-1F, 1.0F, 0x1.000002p0F, -1.0F, 2.0F,
                     std::nextafter(2.0F, 3.0F), -2.0F, std::nextafter(-2.0F, -3.0F), 10.0F,
                     std::nextafter(10.0F, 11.0F), 100.0F, std::nextafter(100.0F, 101.0F), -100.0F});
    }
  }
  // Any float, more often one in [low, high]; notes the field if it is not.
  template <typename Set>
  void Float(Message& message, const std::string& field, float low, bool low_open, float high, Set set) {
    if (Chance(45)) return;
    float value = AnyFloat();
    const auto good = [&] { return value <= high && (low_open ? value > low : value >= low); };
    for (int tries = Chance(85) ? 40 : 0; tries > 0 && !good(); --tries) value = AnyFloat();
    if (!good()) message.bad.insert(field);
    set(value);
  }
  // Any int32, more often one in [low, usual]; notes the field if it is not in [low, high].
  template <typename Set>
  void Int(Message& message, const std::string& field, int32_t low, int32_t usual, int32_t high, Set set) {
    int32_t value = low + static_cast<int32_t>(random_() % static_cast<uint64_t>(usual - low + 1));
    if (Chance(3)) value = Pick({INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX, 1 << 20});
    if (value < low || value > high) message.bad.insert(field);
    set(value);
  }
  template <typename Set>
  void Token(Message& message, const std::string& field, Set set) {
    Int(message, field, 0, vocab_ - 1, vocab_ - 1, set);
  }

  v1::TreeNode& Add(Message& message, const std::string& parent) {
    v1::TreeNode& node = *message.request.add_nodes();
    node.set_id("n" + std::to_string(message.request.nodes_size() - 1));
    node.set_parent_id(parent);
    return node;
  }
  static std::string FieldOfLast(const Message& message) {
    return "nodes[" + std::to_string(message.request.nodes_size() - 1) + "]";
  }

  void AddGenerate(Message& message, const std::string& parent) {
    v1::Generate& generate = *Add(message, parent).mutable_generate();
    const std::string field = FieldOfLast(message) + ".generate";
    // 0 stands for the default; the others are far beyond what the engine of this test takes.
    Int(message, field + ".branches", 0, 3, kMaxBranches,
        [&](int32_t value) { generate.set_branches(value); });
    Int(message, field + ".max_new_tokens", 0, 6, kMaxPositions,
        [&](int32_t value) { generate.set_max_new_tokens(value); });
    Int(message, field + ".top_logprobs", 0, 20, 20,
        [&](int32_t value) { generate.set_top_logprobs(value); });
    if (Chance(20)) {
      Token(message, field + ".stop_token_ids[0]",
            [&](int32_t value) { generate.add_stop_token_ids(value); });
    }
    generate.set_ignore_eos(Chance(50));
    AddSampling(message, field + ".sampling", *generate.mutable_sampling());
  }

  void AddSampling(Message& message, const std::string& field, v1::Sampling& sampling) {
    Float(message, field + ".temperature", 0, false, 100, [&](float x) { sampling.set_temperature(x); });
    Float(message, field + ".top_p", 0, true, 1, [&](float x) { sampling.set_top_p(x); });
    Float(message, field + ".min_p", 0, false, 1, [&](float x) { sampling.set_min_p(x); });
    Float(message, field + ".repetition_penalty", 0, true, 10,
          [&](float x) { sampling.set_repetition_penalty(x); });
    Float(message, field + ".presence_penalty", -2, false, 2,
          [&](float x) { sampling.set_presence_penalty(x); });
    Float(message, field + ".frequency_penalty", -2, false, 2,
          [&](float x) { sampling.set_frequency_penalty(x); });
    if (Chance(40)) {
      sampling.set_top_k(Pick({1, 1, 2, 50, vocab_ - 1, vocab_, INT32_MAX, INT32_MAX - 1}));
      if (Chance(10)) {
        sampling.set_top_k(Pick({-1, INT32_MIN}));
        message.bad.insert(field + ".top_k");
      }
    }
    for (uint64_t i = Chance(40) ? 1 + random_() % 4 : 0; i > 0; --i) {
      const std::string entry = field + ".logit_bias[" + std::to_string(sampling.logit_bias_size()) + "]";
      v1::LogitBias& bias = *sampling.add_logit_bias();
      Token(message, entry + ".token_id", [&](int32_t value) { bias.set_token_id(value); });
      Float(message, entry + ".bias", -100, false, 100, [&](float x) { bias.set_bias(x); });
    }
  }

  // A scored given node below n1, and a selection by it.
  void AddVerdict(Message& message) {
    v1::Given& given = *Add(message, "n1").mutable_given();
    given.set_score(true);
    const std::string field = FieldOfLast(message);
    Token(message, field + ".given.token_ids.ids[0]",
          [&](int32_t value) { given.mutable_token_ids()->add_ids(value); });
    Int(message, field + ".given.top_logprobs", 0, 20, 20,
        [&](int32_t value) { given.set_top_logprobs(value); });
    const std::string verdict = message.request.nodes(message.request.nodes_size() - 1).id();
    v1::Select& select = *Add(message, verdict).mutable_select();
    select.set_score(v1::SELECT_SCORE_SUM_VERDICTS);
    Int(message, FieldOfLast(message) + ".select.keep", 1, 3, INT32_MAX,
        [&](int32_t value) { select.set_keep(value); });
  }

  std::mt19937_64 random_;
  int32_t vocab_;
};

bool IsGreedy(const v1::Sampling& sampling) {
  const bool cold = sampling.has_temperature() && sampling.temperature() < kSmallestTemperature;
  const bool narrow = sampling.has_top_p() && sampling.top_p() < 1e-30F;
  return cold || narrow || sampling.top_k() == 1;
}

// The same with temperature 0 where nothing else is left; nothing where something is.
std::optional<v1::GenerateRequest> GreedyForm(v1::GenerateRequest request) {
  for (v1::TreeNode& node : *request.mutable_nodes()) {
    if (!node.has_generate()) continue;
    v1::Sampling& sampling = *node.mutable_generate()->mutable_sampling();
    if (!IsGreedy(sampling)) return std::nullopt;
    sampling.set_temperature(0);
    sampling.clear_top_k();
    sampling.clear_top_p();
    sampling.clear_min_p();
  }
  return request;
}

class Fuzzer {
 public:
  Fuzzer(std::unique_ptr<ModelRunner> runner, std::shared_ptr<const Tokenizer> tokenizer)
      : tokenizer_(std::move(tokenizer)) {
    const EngineOptions options{.total_blocks = kBlocks,
                                .max_branches = kMaxBranches,
                                .max_batch_rows = 32,
                                .prefill_chunk_tokens = 16,
                                .check_invariants = true};
    engine_ = Engine::Create(options, std::move(runner), tokenizer_).value();
  }

  void Run(uint64_t seed, uint64_t requests, uint64_t seconds) {
    Generator generator(seed, tokenizer_->vocab_size());
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    for (uint64_t i = 0; seconds > 0 ? std::chrono::steady_clock::now() < end : i < requests; ++i) {
      CAPTURE(i);
      batch_.push_back(Send(generator.Next()));
      if (batch_.size() == 8) Collect();
    }
    Collect();
    engine_->Drain(0);
    engine_->FlushCache();
    const EngineStats stats = engine_->Stats();
    CHECK(stats.requests_active == 0);
    CHECK(stats.blocks_live == 0);
    CHECK(stats.blocks_free == stats.blocks_total);
  }

  int64_t answered() const { return answered_; }
  int64_t refused() const { return refused_; }
  int64_t greedy() const { return greedy_; }

 private:
  struct Sent {
    Message message;
    Result<std::shared_ptr<Sink>> answer;
    std::shared_ptr<Sink> greedy;  // to the greedy form, if there is one
  };

  Result<std::shared_ptr<Sink>> Submit(const v1::GenerateRequest& message) {
    v1::GenerateRequest parsed;  // as from the wire
    REQUIRE(parsed.ParseFromString(message.SerializeAsString()));
    auto request = FromProto(parsed, {*tokenizer_, kMaxPositions, not_cancelled_}, 0);
    if (!request) return request.error();
    auto sink = std::make_shared<Sink>();
    const auto id = engine_->Submit(std::move(*request), sink);
    if (!id) return id.error();
    return sink;
  }

  Sent Send(Message message) {
    auto answer = Submit(message.request);
    std::shared_ptr<Sink> greedy;
    const auto form = GreedyForm(message.request);
    if (answer && form) greedy = Submit(*form).value();
    return {std::move(message), std::move(answer), std::move(greedy)};
  }

  void Collect() {
    for (Sent& sent : batch_) {
      INFO(sent.message.request.ShortDebugString());
      if (!sent.answer) {
        CheckRefusal(sent.message, sent.answer.error());
        continue;
      }
      CHECK(sent.message.bad.empty());
      ++answered_;
      const TreeFinished finished = CheckAnswer(sent.answer.value()->Wait());
      if (sent.greedy == nullptr) continue;
      ++greedy_;
      const TreeFinished greedy = CheckAnswer(sent.greedy->Wait());
      REQUIRE(finished.branches.size() == greedy.branches.size());
      for (size_t i = 0; i < greedy.branches.size(); ++i)
        CHECK(finished.branches[i].token_ids == greedy.branches[i].token_ids);
    }
    batch_.clear();
  }

  void CheckRefusal(const Message& message, const Error& error) {
    ++refused_;
    INFO(error.ToString());
    CHECK(error.code == ErrorCode::kInvalidArgument);
    CHECK(message.bad.count(error.field) == 1);
  }

  TreeFinished CheckAnswer(const std::vector<TreeEvent>& events) {
    const auto* finished = std::get_if<TreeFinished>(&events.back());
    REQUIRE(finished != nullptr);
    for (const TreeEvent& event : events) {
      const auto* delta = std::get_if<TreeDelta>(&event);
      if (delta == nullptr) continue;
      for (const BranchDelta& branch : delta->branches) {
        for (const float logprob : branch.logprobs) CHECK((std::isfinite(logprob) && logprob <= 1e-5F));
        for (const auto& top : branch.top_logprobs) {
          for (const TokenLogprob& token : top) CHECK(std::isfinite(token.logprob));
        }
      }
    }
    for (const BranchSummary& branch : finished->branches) {
      CHECK(branch.finish_reason != FinishReason::kError);
      CHECK(std::isfinite(branch.sum_logprob));
      for (const int32_t token : branch.token_ids) CHECK((token >= 0 && token < tokenizer_->vocab_size()));
    }
    return *finished;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  const std::atomic<bool> not_cancelled_{false};
  std::unique_ptr<Engine> engine_;
  std::vector<Sent> batch_;
  int64_t answered_ = 0;
  int64_t refused_ = 0;
  int64_t greedy_ = 0;
};

// `backend`: "ref", "cuda" (its host emulator) or an instruction set of the cpu.
void FuzzOn(const std::string& backend, DType dtype, WeightType weights = WeightType::kDType) {
  const bool on_cpu = backend != "ref" && backend != "cuda";
  if (on_cpu && !test::HasIsa(backend)) return;
  std::shared_ptr<const Tokenizer> tokenizer =
      LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model").value();
  ModelConfig config;
  config.vocab_size = tokenizer->vocab_size();
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.layers.resize(1);
  config.query_heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.max_positions = kMaxPositions;
  RunnerOptions options;
  options.backend.name = on_cpu ? "cpu" : backend;
  options.backend.isa = on_cpu ? backend : "auto";
  options.backend.dtype = dtype;
  options.backend.weights = weights;
  options.backend.threads = 1;
  options.backend.max_rows = 32;
  options.kv_blocks = kBlocks;
  if (backend == "cuda") {
    options.make_backend = [](const BackendOptions& asked) {
      return device::CreateHostEmulatorBackend(asked, {.memory_bytes = int64_t{416} << 20});
    };
  }
  const uint64_t seed = FromEnvironment("ESPALIER_TEST_SEED", std::random_device{}());
  const uint64_t requests = FromEnvironment("ESPALIER_FUZZ_REQUESTS", backend == "cuda" ? 100 : 400);
  CAPTURE(backend, Name(dtype), Name(weights), seed);
  Fuzzer fuzzer(RandomModel(config, 3, options).value(), tokenizer);
  fuzzer.Run(seed, requests, FromEnvironment("ESPALIER_FUZZ_SECONDS", 0));
  std::printf("%s %s, weights %s, seed %llu: %lld answered, %lld of them greedy, %lld refused\n",
              backend.c_str(), Name(dtype), Name(weights), static_cast<unsigned long long>(seed),
              static_cast<long long>(fuzzer.answered()), static_cast<long long>(fuzzer.greedy()),
              static_cast<long long>(fuzzer.refused()));
  CHECK(fuzzer.answered() > 0);
  CHECK(fuzzer.refused() > 0);
  CHECK(fuzzer.greedy() > 0);
}

TEST_CASE("extreme numbers are answered or refused by name on ref") { FuzzOn("ref", DType::kFloat32); }

TEST_CASE("extreme numbers are answered or refused by name on the cpu") {
  FuzzOn("auto", DType::kBFloat16);
  FuzzOn("auto", DType::kBFloat16, WeightType::kInt8);
  FuzzOn("amx_emulated", DType::kBFloat16);
  FuzzOn("portable", DType::kFloat32);
}

TEST_CASE("extreme numbers are answered or refused by name on the cuda backend's host emulator") {
  FuzzOn("cuda", DType::kFloat32);
  FuzzOn("cuda", DType::kBFloat16);
}

}  // namespace
}  // namespace espalier::test
