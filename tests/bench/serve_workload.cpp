#include "tests/bench/serve_workload.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/serve_call.h"
#include "tests/bench/serve_prompts.h"

namespace espalier::bench {

namespace {

// The search: as configs/trees has it for the demo model.
constexpr int kSteps = 3;
constexpr int kProposals = 8;
constexpr int kKept = 5;
constexpr int kStepTokens = 14;
constexpr int kChatTokens = 40;
constexpr int kContinuations = 8;       // of a Score request
constexpr int kContinuationTokens = 6;  // of each

// Neighbouring seeds give unlike streams (SplitMix64's finish, Steele et al. 2014).
uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31);
}

v1::TreeNode* AddNode(v1::GenerateRequest* request, const std::string& id, const std::string& parent) {
  v1::TreeNode* node = request->add_nodes();
  node->set_id(id);
  node->set_parent_id(parent);
  return node;
}

class TreeSource final : public WorkloadSource {
 public:
  TreeSource(const TreeShapeOptions& options, std::unique_ptr<Prompts> prompts,
             std::vector<v1::TokenIds> scored)
      : options_(options), prompts_(std::move(prompts)), scored_(std::move(scored)) {}

  LoadRequest Make(Workload workload, uint64_t run_seed, uint64_t number) const override {
    Random random(Mix(run_seed + 0x9e3779b97f4a7c15U * (number + 1)));
    switch (workload) {
      case Workload::kFewShot:
        return FewShot(&random, options_.branches);
      case Workload::kMultiStep:
        return MultiStep(&random);
      case Workload::kMixed:
        break;
    }
    return Mixed(&random);
  }

 private:
  // Of ten: four few-shot trees of half the branches, two searches, three single answers, one Score. One
  // request in eight does without the cache.
  LoadRequest Mixed(Random* random) const {
    const int32_t kind = Draw(random, 0, 9);
    const bool bypass = Draw(random, 0, 7) == 0;
    if (kind == 9) {
      v1::ScoreRequest request = Score(random);
      request.set_cache_bypass(bypass);
      return request;
    }
    v1::GenerateRequest request = kind < 4   ? FewShot(random, std::max(options_.branches / 2, 1))
                                  : kind < 6 ? MultiStep(random)
                                             : Chat(random);
    request.set_cache_bypass(bypass);
    return request;
  }

  void SetLength(int32_t max_tokens, const std::string& stop, v1::Generate* generate) const {
    generate->set_max_new_tokens(max_tokens);
    if (stop.empty()) {
      generate->set_ignore_eos(true);
    } else {
      generate->add_stop_strings(stop);
    }
  }

  v1::GenerateRequest FewShot(Random* random, int32_t branches) const {
    v1::GenerateRequest request;
    request.set_seed((*random)());
    prompts_->FewShot(random, AddNode(&request, "prompt", "")->mutable_given());
    v1::Generate* answer = AddNode(&request, "answer", "prompt")->mutable_generate();
    answer->set_branches(branches);
    SetLength(options_.new_tokens, prompts_->AnswerStop(), answer);
    return request;
  }

  v1::GenerateRequest MultiStep(Random* random) const {
    v1::GenerateRequest request;
    request.set_seed((*random)());
    prompts_->Problem(random, AddNode(&request, "problem", "")->mutable_given());
    std::string parent = "problem";
    for (int i = 1; i <= kSteps; ++i) {
      const std::string number = std::to_string(i);
      v1::Generate* step = AddNode(&request, "step" + number, parent)->mutable_generate();
      step->set_branches(kProposals);
      SetLength(kStepTokens, prompts_->StepStop(), step);
      v1::Given* verdict = AddNode(&request, "verdict" + number, "step" + number)->mutable_given();
      prompts_->Verdict(verdict);
      verdict->set_score(true);
      parent = "best" + number;
      v1::Select* select = AddNode(&request, parent, "verdict" + number)->mutable_select();
      select->set_keep(i < kSteps ? kKept : 1);
      select->set_score(v1::SELECT_SCORE_SUM_VERDICTS);
    }
    return request;
  }

  v1::GenerateRequest Chat(Random* random) const {
    v1::GenerateRequest request;
    request.set_seed((*random)());
    prompts_->Chat(random, AddNode(&request, "question", "")->mutable_given());
    SetLength(kChatTokens, "", AddNode(&request, "answer", "question")->mutable_generate());
    return request;
  }

  // Continuations are pieces of other prompts.
  v1::ScoreRequest Score(Random* random) const {
    const auto any = [&] {
      return static_cast<size_t>(Draw(random, 0, static_cast<int>(scored_.size()) - 1));
    };
    v1::ScoreRequest request;
    *request.mutable_prompt() = scored_[any()];
    for (int i = 0; i < kContinuations; ++i) {
      const v1::TokenIds& from = scored_[any()];
      const int count = std::min(kContinuationTokens, from.ids_size());
      const int first = Draw(random, 0, from.ids_size() - count);
      v1::TokenIds& continuation = *request.add_continuations();
      for (int k = first; k < first + count; ++k) continuation.add_ids(from.ids(k));
    }
    return request;
  }

  const TreeShapeOptions options_;
  const std::unique_ptr<Prompts> prompts_;
  const std::vector<v1::TokenIds> scored_;  // prompts of Score requests
};

// Score takes tokens, so texts are encoded here, once.
Result<std::vector<v1::TokenIds>> PromptsToScore(const Prompts& prompts, v1::ModelService::Stub* service) {
  constexpr int kCount = 8;
  std::vector<v1::TokenIds> scored;
  Random random(1);
  for (int i = 0; i < kCount; ++i) {
    v1::Given given;
    prompts.FewShot(&random, &given);
    if (!given.has_token_ids()) {
      v1::TokenizeRequest request;
      request.set_text(given.text());
      request.set_add_bos(true);
      auto answer =
          Ask<v1::TokenizeResponse>([&](grpc::ClientContext* context, v1::TokenizeResponse* response) {
            return service->Tokenize(context, request, response);
          });
      if (!answer) return answer.error();
      *given.mutable_token_ids()->mutable_ids() = answer->token_ids();
    }
    scored.push_back(given.token_ids());
  }
  return scored;
}

}  // namespace

Result<std::unique_ptr<WorkloadSource>> WorkloadSource::Create(const TreeShapeOptions& options,
                                                               const v1::GetModelResponse& model,
                                                               v1::ModelService::Stub* service) {
  const bool demo = options.prompts == "demo" || (options.prompts == "auto" && model.name() == "demo");
  const int64_t path = int64_t{options.prompt_tokens} + options.new_tokens;
  if (!demo && path > model.max_path_tokens()) {
    return InvalidArgument("prompt-tokens", "with --new-tokens a path of " + std::to_string(path) +
                                                " tokens; the model takes " +
                                                std::to_string(model.max_path_tokens()));
  }
  if (options.branches > model.max_branches()) {
    return InvalidArgument("branches", "the server takes at most " + std::to_string(model.max_branches()));
  }
  auto prompts = demo ? DemoPrompts() : TokenPrompts(model.vocab_size(), options.prompt_tokens);
  auto scored = PromptsToScore(*prompts, service);
  if (!scored) return scored.error();
  return std::unique_ptr<WorkloadSource>(
      std::make_unique<TreeSource>(options, std::move(prompts), std::move(*scored)));
}

}  // namespace espalier::bench
