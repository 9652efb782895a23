#include <atomic>
#include <cmath>
#include <map>
#include <string>

#include "engine/tree_cost.h"
#include "model/tokenizer/tokenizer.h"
#include "server/tree_codec.h"
#include "tests/server/test_server.h"
#include "tests/support/catch.h"
#include "tests/support/env.h"

namespace espalier::test {
namespace {

const std::string kLongPrompt =
    "the quick brown fox jumps over the lazy dog and then the quick brown fox jumps over the lazy dog again";

TEST_CASE("a few-shot tree: started, one delta a step, finished, and all of them agree") {
  TestServer server;
  const Generated result = Generate(server.trees(), FewShot(kLongPrompt, 5, 7));
  REQUIRE(result.status.ok());
  REQUIRE(result.events.front().has_started());
  CHECK(result.events.front().started().seed() == 1);
  std::map<int, std::vector<int32_t>> tokens;
  std::map<int, std::string> text;
  std::map<int, double> sum;
  uint64_t last_step = 0;
  for (const auto& event : result.events) {
    if (!event.has_delta()) continue;
    CHECK(event.delta().step() > last_step);
    last_step = event.delta().step();
    for (const auto& branch : event.delta().branches()) {
      tokens[branch.branch()].insert(tokens[branch.branch()].end(), branch.token_ids().begin(),
                                     branch.token_ids().end());
      text[branch.branch()] += branch.text();
      CHECK(branch.logprobs_size() == branch.token_ids_size());
      for (const float logprob : branch.logprobs()) sum[branch.branch()] += logprob;
    }
  }
  REQUIRE(result.events.back().has_finished());
  const v1::Finished& finished = result.finished();
  REQUIRE(finished.branches_size() == 5);
  for (const auto& branch : finished.branches()) {
    CHECK(branch.token_ids_size() == 7);
    CHECK(std::vector<int32_t>(branch.token_ids().begin(), branch.token_ids().end()) ==
          tokens[branch.branch()]);
    CHECK(branch.text() == text[branch.branch()]);
    CHECK(branch.sum_logprob() == Approx(sum[branch.branch()]));
    CHECK(branch.finish_reason() == v1::FINISH_REASON_MAX_TOKENS);
    CHECK(branch.tip());
    CHECK(branch.node_path_size() == 2);
  }
  CHECK(finished.usage().generated_tokens() == 35);
  CHECK(finished.usage().kv_read_bytes() > 0);
  CHECK(finished.usage().kv_read_bytes() < finished.usage().kv_read_bytes_sequence());
  CHECK(finished.usage().first_token_us() > 0);
  server.WaitUntilIdle();
}

TEST_CASE("the same request again finds its prompt in the cache and gives the same tokens") {
  TestServer server;
  const auto request = FewShot(kLongPrompt, 3, 6);
  const Generated cold = Generate(server.trees(), request);
  const Generated warm = Generate(server.trees(), request);
  REQUIRE(warm.status.ok());
  CHECK(cold.events.front().started().cached_tokens() == 0);
  const v1::Started& started = warm.events.front().started();
  CHECK(started.cached_tokens() > started.prompt_tokens() - 17);
  CHECK(started.cached_tokens() < started.prompt_tokens());
  for (int i = 0; i < 3; ++i) {
    CHECK(warm.finished().branches(i).text() == cold.finished().branches(i).text());
  }
  auto bypass = request;
  bypass.set_cache_bypass(true);
  CHECK(Generate(server.trees(), bypass).events.front().started().cached_tokens() == 0);
  auto elsewhere = request;
  elsewhere.set_cache_namespace("another");
  CHECK(Generate(server.trees(), elsewhere).events.front().started().cached_tokens() == 0);
}

TEST_CASE("without a seed the server chooses one and reports it, and it repeats the tree") {
  TestServer server;
  auto request = FewShot(kLongPrompt, 2, 8);
  request.clear_seed();
  const Generated first = Generate(server.trees(), request);
  request.set_seed(first.events.front().started().seed());
  const Generated again = Generate(server.trees(), request);
  CHECK(first.finished().branches(1).text() == again.finished().branches(1).text());
}

TEST_CASE("a multi-step tree: verdicts are scored, the best are kept and continued, the rest pruned") {
  TestServer server;
  v1::GenerateRequest request = FewShot("a tree", 4, 3);
  auto add = [&request](const char* id, const char* parent) -> v1::TreeNode& {
    v1::TreeNode& node = *request.add_nodes();
    node.set_id(id);
    node.set_parent_id(parent);
    return node;
  };
  v1::Given& verdict = *add("verdict", "answer").mutable_given();
  verdict.set_text(" good");
  verdict.set_score(true);
  v1::Select& select = *add("best", "verdict").mutable_select();
  select.set_keep(2);
  select.set_score(v1::SELECT_SCORE_SUM_VERDICTS);
  v1::Generate& next = *add("next", "best").mutable_generate();
  next.set_branches(2);
  next.set_max_new_tokens(2);
  next.set_ignore_eos(true);

  const Generated result = Generate(server.trees(), request);
  REQUIRE(result.status.ok());
  const v1::Selected* selected = nullptr;
  for (const auto& event : result.events) {
    if (event.has_selected()) selected = &event.selected();
  }
  REQUIRE(selected != nullptr);
  CHECK(selected->node_id() == "best");
  REQUIRE(selected->kept_size() == 2);
  REQUIRE(selected->pruned_size() == 2);
  CHECK(selected->scores(0) >= selected->scores(1));
  CHECK(selected->scores(1) >= selected->scores(2));
  int pruned = 0;
  int next_branches = 0;
  for (const auto& branch : result.finished().branches()) {
    if (branch.finish_reason() == v1::FINISH_REASON_PRUNED) ++pruned;
    if (branch.node_path(branch.node_path_size() - 1) == "next") {
      ++next_branches;
      CHECK(branch.node_path_size() == 5);
      CHECK((branch.parent_branch() == selected->kept(0) || branch.parent_branch() == selected->kept(1)));
    }
  }
  CHECK(pruned >= 2);
  CHECK(next_branches == 4);
  server.WaitUntilIdle();
}

TEST_CASE("an answer has no more bytes than its request was counted with") {
  TestServer server;
  const auto tokenizer = LoadTokenizer(SourceDir() / "tests/model/tokenizer/data/sp_bpe/tokenizer.model");
  REQUIRE(tokenizer.ok());
  v1::GenerateRequest request = FewShot("count me", 8, 30);
  request.mutable_nodes(1)->set_id(std::string(kMaxNodeIdBytes, 'x'));
  request.mutable_nodes(1)->mutable_generate()->set_top_logprobs(3);
  v1::TreeNode& best = *request.add_nodes();
  best.set_id("best");
  best.set_parent_id(request.nodes(1).id());
  best.mutable_select()->set_keep(4);
  best.mutable_select()->set_score(v1::SELECT_SCORE_SUM_LOGPROB);
  v1::TreeNode& verdict = *request.add_nodes();
  verdict.set_id("verdict");
  verdict.set_parent_id("best");
  verdict.mutable_given()->set_text(" and then it was good");
  verdict.mutable_given()->set_score(true);
  verdict.mutable_given()->set_top_logprobs(20);
  const EngineLimits& limits = server.server().engine().limits();
  const std::atomic<bool> not_cancelled{false};
  const auto tree = FromProto(request, {**tokenizer, limits.max_path_tokens, not_cancelled}, 1);
  REQUIRE(tree.ok());
  const auto bound = static_cast<size_t>(CostOf(*tree, limits).answer_bytes);
  const Generated result = Generate(server.trees(), request);
  REQUIRE(result.status.ok());
  size_t bytes = 0;
  for (const auto& event : result.events) bytes += event.ByteSizeLong();
  CHECK(bytes <= bound);
  CHECK(bytes > bound / 4);
}

TEST_CASE("Score gives what Generate reports for the same tokens") {
  TestServer server;
  v1::GenerateRequest request = FewShot("score me", 3, 4);
  request.mutable_nodes(1)->mutable_generate()->set_top_logprobs(2);
  const Generated generated = Generate(server.trees(), request);
  grpc::ClientContext tokenize_context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("score me");
  tokenize.set_add_bos(true);
  v1::TokenizeResponse prompt;
  REQUIRE(server.models().Tokenize(&tokenize_context, tokenize, &prompt).ok());

  v1::ScoreRequest score;
  *score.mutable_prompt()->mutable_ids() = prompt.token_ids();
  score.set_top_logprobs(2);
  for (const auto& branch : generated.finished().branches()) {
    *score.add_continuations()->mutable_ids() = branch.token_ids();
  }
  grpc::ClientContext context;
  v1::ScoreResponse response;
  REQUIRE(server.trees().Score(&context, score, &response).ok());
  REQUIRE(response.scores_size() == 3);
  for (int i = 0; i < 3; ++i) {
    CHECK(response.scores(i).sum_logprob() ==
          Approx(generated.finished().branches(i).sum_logprob()).epsilon(1e-5));
    CHECK(response.scores(i).mean_logprob() == Approx(response.scores(i).sum_logprob() / 4));
    CHECK(response.scores(i).logprobs_size() == 4);
    REQUIRE(response.scores(i).top_logprobs_size() == 4);
    CHECK(response.scores(i).top_logprobs(0).entries_size() == 2);
    CHECK(response.scores(i).top_logprobs(0).entries(0).logprob() >= response.scores(i).logprobs(0));
  }
  server.WaitUntilIdle();
}

TEST_CASE("text goes to tokens and back") {
  TestServer server;
  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text("the fox 🦊");
  v1::TokenizeResponse tokens;
  REQUIRE(server.models().Tokenize(&context, request, &tokens).ok());
  CHECK(tokens.pieces_size() == tokens.token_ids_size());
  grpc::ClientContext back_context;
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  REQUIRE(server.models().Detokenize(&back_context, back, &text).ok());
  CHECK(text.text() == "the fox 🦊");
  CHECK(std::vector<std::string>(text.pieces().begin(), text.pieces().end()) ==
        std::vector<std::string>(tokens.pieces().begin(), tokens.pieces().end()));
}

TEST_CASE("a prompt that takes many steps reports how far it is, until its first token") {
  const auto pace = std::make_shared<Pace>();
  TestServer server({.max_batch_rows = 16, .pace = pace});
  pace->SetStepUs(20'000);
  std::string prompt;
  for (int i = 0; i < 20; ++i) prompt += "the quick brown fox ";
  const Generated result = Generate(server.trees(), FewShot(prompt, 2, 3));
  REQUIRE(result.status.ok());
  const int32_t prompt_tokens = result.events.front().started().prompt_tokens();
  REQUIRE(prompt_tokens > 64);
  int32_t computed = 0;
  int progresses = 0;
  bool has_grown = false;
  for (const auto& event : result.events) {
    has_grown = has_grown || event.has_delta();
    if (!event.has_progress()) continue;
    CHECK_FALSE(has_grown);
    CHECK(event.progress().branch() == 0);
    CHECK(event.progress().computed_tokens() > computed);
    CHECK(event.progress().computed_tokens() % 16 == 0);
    CHECK(event.progress().total_tokens() == prompt_tokens);
    computed = event.progress().computed_tokens();
    ++progresses;
  }
  // Progress that was not read in time is left out.
  CHECK(progresses >= 1);
  CHECK(progresses <= (prompt_tokens - 1) / 16);
  server.WaitUntilIdle();
}

TEST_CASE("the model card and the tree snapshot report what is there") {
  TestServer server;
  grpc::ClientContext card_context;
  v1::GetModelResponse card;
  REQUIRE(server.models().GetModel(&card_context, {}, &card).ok());
  CHECK(card.backend() == "ref");
  CHECK(card.layers() == 2);
  CHECK(card.blocks_total() == 256);

  REQUIRE(Generate(server.trees(), FewShot(kLongPrompt, 2, 2)).status.ok());
  server.WaitUntilIdle();
  grpc::ClientContext snapshot_context;
  v1::GetTreeSnapshotResponse snapshot;
  REQUIRE(server.admin().GetTreeSnapshot(&snapshot_context, {}, &snapshot).ok());
  REQUIRE(snapshot.nodes_size() > 0);
  CHECK(snapshot.nodes(0).parent_id() == -1);
  CHECK(snapshot.nodes(0).indexed());
  CHECK(snapshot.nodes(0).pins() == 0);

  const int cached = server.Stats().blocks_indexed();
  CHECK(cached > 0);
  grpc::ClientContext flush_context;
  v1::FlushCacheResponse flushed;
  REQUIRE(server.admin().FlushCache(&flush_context, {}, &flushed).ok());
  CHECK(flushed.blocks_freed() == cached);
  CHECK(server.Stats().blocks_free() == 256);
}

}  // namespace
}  // namespace espalier::test
