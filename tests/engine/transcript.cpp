#include "tests/engine/transcript.h"

#include <cstdio>
#include <sstream>
#include <utility>

namespace espalier::test {
namespace {

const char* const kOneStep = "---- one step in flight";
const char* const kTwoSteps = "---- two steps in flight";
const char* const kBoth = "----";

std::string List(const std::vector<int32_t>& values) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) text += (i > 0 ? " " : "") + std::to_string(values[i]);
  return "[" + text + "]";
}

std::vector<int32_t> Tokens(const std::string& text) {
  const size_t range = text.find("..");
  std::vector<int32_t> tokens;
  if (range != std::string::npos) {
    for (int32_t token = std::stoi(text); token <= std::stoi(text.substr(range + 2)); ++token) {
      tokens.push_back(token);
    }
    return tokens;
  }
  std::istringstream stream(text);
  for (std::string token; std::getline(stream, token, ',');) tokens.push_back(std::stoi(token));
  return tokens;
}

std::vector<std::string> Words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// "name=value" or "name".
std::map<std::string, std::string> ParseArguments(const std::vector<std::string>& words, size_t first) {
  std::map<std::string, std::string> arguments;
  for (size_t i = first; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    arguments[words[i].substr(0, equals)] = equals == std::string::npos ? "" : words[i].substr(equals + 1);
  }
  return arguments;
}

int32_t Int(const std::map<std::string, std::string>& arguments, const char* name, int32_t otherwise) {
  const auto found = arguments.find(name);
  return found == arguments.end() ? otherwise : std::stoi(found->second);
}

std::string Get(const std::map<std::string, std::string>& arguments, const char* name) {
  const auto found = arguments.find(name);
  return found == arguments.end() ? "" : found->second;
}

SelectScore ParseScore(const std::string& name) {
  if (name == "mean") return SelectScore::kMeanLogprob;
  if (name == "latest") return SelectScore::kLatestVerdict;
  if (name == "verdicts") return SelectScore::kSumVerdicts;
  ESPALIER_CHECK(name.empty() || name == "sum");
  return SelectScore::kSumLogprob;
}

TreeNodeSpec ParseNode(const std::vector<std::string>& words, const std::map<std::string, int32_t>& nodes) {
  TreeNodeSpec node;
  node.id = words.at(0);
  const auto arguments = ParseArguments(words, 2);
  if (arguments.count("under") != 0) node.parent = nodes.at(Get(arguments, "under"));
  if (words.at(1) == "given") {
    GivenSpec given;
    given.token_ids = Tokens(words.at(2));
    given.score = arguments.count("score") != 0;
    node.content = given;
  } else if (words[1] == "generate") {
    GenerateSpec generate;
    generate.branches = Int(arguments, "branches", 1);
    generate.max_new_tokens = Int(arguments, "max", 4);
    generate.ignore_eos = arguments.count("ignore_eos") != 0;
    if (arguments.count("temperature") != 0) {
      generate.sampling.temperature = std::stof(Get(arguments, "temperature"));
    }
    node.content = generate;
  } else {
    ESPALIER_CHECK(words[1] == "select");
    const bool siblings = Get(arguments, "scope") == "siblings";
    node.content = SelectSpec{Int(arguments, "keep", 1), ParseScore(Get(arguments, "score")),
                              siblings ? SelectScope::kSiblings : SelectScope::kLevel};
  }
  return node;
}

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStopToken:
      return " stop_token";
    case FinishReason::kStopString:
      return " stop_string";
    case FinishReason::kMaxTokens:
      return " max_tokens";
    case FinishReason::kPruned:
      return " pruned";
    case FinishReason::kCancelled:
      return " cancelled";
    case FinishReason::kError:
      return " error";
  }
  return " ?";
}

}  // namespace

std::vector<TranscriptBlock> ParseTranscript(const std::string& text) {
  enum class Part { kCommand, kOne, kTwo, kBothOutputs };
  std::vector<TranscriptBlock> blocks;
  TranscriptBlock block;
  Part part = Part::kCommand;
  const auto end_block = [&] {
    if (!block.command.empty()) blocks.push_back(std::exchange(block, {}));
    part = Part::kCommand;
  };
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line == kOneStep || line == kTwoSteps || line == kBoth) {
      part = line == kOneStep ? Part::kOne : line == kTwoSteps ? Part::kTwo : Part::kBothOutputs;
    } else if (line.empty() && !block.command.empty()) {
      end_block();
    } else if (part == Part::kCommand) {
      const bool comment = block.command.empty() && (line.empty() || line[0] == '#');
      if (comment) {
        block.comments += line + "\n";
      } else {
        block.command.push_back(line);
      }
    } else {
      if (part != Part::kTwo) block.output[0] += line + "\n";
      if (part != Part::kOne) block.output[1] += line + "\n";
    }
  }
  end_block();
  return blocks;
}

std::string FormatTranscript(const std::vector<TranscriptBlock>& blocks) {
  std::string text;
  for (const TranscriptBlock& block : blocks) {
    text += block.comments;
    for (const std::string& line : block.command) text += line + "\n";
    if (block.output[0] == block.output[1]) {
      text += std::string(kBoth) + "\n" + block.output[0];
    } else {
      text += std::string(kOneStep) + "\n" + block.output[0] + kTwoSteps + "\n" + block.output[1];
    }
    text += "\n";
  }
  if (!text.empty()) text.pop_back();
  return text;
}

std::string TranscriptRunner::Execute(const std::vector<std::string>& command) {
  out_.clear();
  const std::vector<std::string> words = Words(command.at(0));
  const std::string& verb = words.at(0);
  const std::string name = words.size() > 1 ? words[1] : "";
  if (verb == "pool") {
    Pool(ParseArguments(words, 1));
  } else if (verb == "submit") {
    Submit(name, ParseArguments(words, 2), {command.begin() + 1, command.end()});
  } else if (verb == "cancel") {
    harness_->Cancel(ids_.at(name));
    PrintEvents();
    PrintBlocks();
  } else if (verb == "flush") {
    out_ += "freed " + std::to_string(harness_->Flush()) + "\n";
    PrintBlocks();
  } else if (verb == "step") {
    for (int32_t n = name.empty() ? 1 : std::stoi(name); n > 0; --n) Step();
    PrintBlocks();
  } else if (verb == "run") {
    while (!harness_->scheduler().idle() && harness_->problem().empty()) Step();
    PrintBlocks();
  } else if (verb == "tree") {
    PrintTree();
  } else if (verb == "answer") {
    PrintAnswer(name);
  } else {
    out_ += "unknown command\n";
  }
  if (!harness_->problem().empty()) out_ += "PROBLEM: " + harness_->problem() + "\n";
  return out_;
}

void TranscriptRunner::Pool(const Arguments& arguments) {
  HarnessOptions options;
  options.runner.total_blocks = Int(arguments, "blocks", 16);
  options.runner.block_tokens = Int(arguments, "block_tokens", 4);
  options.runner.steps_in_flight = steps_in_flight_;
  options.runner.model.vocab_size = 100;
  options.max_batch_rows = Int(arguments, "max_rows", 16);
  options.prefill_chunk_tokens = Int(arguments, "chunk", 8);
  options.with_text = false;
  harness_ = std::make_unique<SchedulerHarness>(options);
}

void TranscriptRunner::Submit(const std::string& name, const Arguments& arguments,
                              const std::vector<std::string>& lines) {
  TreeRequest request;
  request.seed = static_cast<uint64_t>(Int(arguments, "seed", 1));
  request.cache_bypass = arguments.count("bypass") != 0;
  request.cache_namespace = Get(arguments, "namespace");
  request.peer = Get(arguments, "peer");
  std::map<std::string, int32_t> nodes;
  for (const std::string& line : lines) {
    request.nodes.push_back(ParseNode(Words(line), nodes));
    nodes[request.nodes.back().id] = static_cast<int32_t>(request.nodes.size()) - 1;
  }
  const Status status = ValidateTreeRequest(request, harness_->limits());
  if (!status.ok()) {
    out_ += "refused: " + status.error().ToString() + "\n";
    return;
  }
  ids_[name] = harness_->Submit(std::move(request));
  names_[ids_[name]] = name;
  PrintEvents();
}

void TranscriptRunner::Step() {
  while (harness_->Issue()) {
    PrintStep(*harness_->last_issued());
    PrintEvents();
  }
  if (harness_->Commit()) {
    PrintEvents();
  } else {
    PrintEvents();
    if (harness_->problem().empty()) out_ += "nothing to run\n";
  }
}

void TranscriptRunner::PrintStep(const StepInput& step) {
  out_ += "step " + std::to_string(step.step_id) + ": " + std::to_string(step.batch.rows()) + " rows, " +
          std::to_string(step.samples.size()) + " samples";
  if (!step.scores.empty()) out_ += ", " + std::to_string(step.scores.size()) + " scores";
  if (!step.zero_blocks.empty()) out_ += ", new blocks " + List(step.zero_blocks);
  for (const BlockCopy& copy : step.copies) {
    out_ += ", copy " + std::to_string(copy.tokens) + " of " + std::to_string(copy.source) + " to " +
            std::to_string(copy.destination);
  }
  out_ += "\n";
  std::vector<size_t> depth(step.batch.nodes.size(), 1);
  for (size_t n = 0; n < step.batch.nodes.size(); ++n) {
    const BatchNode& node = step.batch.nodes[n];
    if (node.parent >= 0) depth[n] = depth[static_cast<size_t>(node.parent)] + 1;
    out_ += std::string(2 * depth[n], ' ') + "at " + std::to_string(node.begin_position) + ": " +
            std::to_string(node.cached_tokens) + " cached + " + std::to_string(node.rows) + " rows in";
    const int32_t tokens = node.cached_tokens + node.rows;
    const auto first = step.batch.blocks.begin() + node.first_block;
    const int32_t blocks = (tokens + step.batch.block_tokens - 1) / step.batch.block_tokens;
    out_ += " " + List(std::vector<int32_t>(first, first + blocks)) + "\n";
  }
}

void TranscriptRunner::PrintEvents() {
  for (const RequestEvent& event : harness_->TakeNewEvents()) {
    out_ += "  " + names_.at(event.request_id) + ": ";
    PrintEvent(event.event);
    out_ += "\n";
  }
}

void TranscriptRunner::PrintEvent(const TreeEvent& event) {
  if (const auto* started = std::get_if<TreeStarted>(&event)) {
    out_ += "started, " + std::to_string(started->cached_tokens) + "/" +
            std::to_string(started->prompt_tokens) + " cached";
  } else if (const auto* progress = std::get_if<TreeProgress>(&event)) {
    out_ += "progress of branch " + std::to_string(progress->branch) + ", " +
            std::to_string(progress->computed_tokens) + "/" + std::to_string(progress->total_tokens);
  } else if (const auto* delta = std::get_if<TreeDelta>(&event)) {
    out_ += "delta of step " + std::to_string(delta->step);
    for (const BranchDelta& branch : delta->branches) {
      out_ += delta->branches.size() > 2 ? ",\n      " : ", ";
      out_ += "branch " + std::to_string(branch.branch) + " of " + std::to_string(branch.parent) + " " +
              List(branch.token_ids) + Name(branch.finish_reason);
    }
  } else if (const auto* selected = std::get_if<TreeSelected>(&event)) {
    out_ += "selected, kept " + List(selected->kept) + ", pruned " + List(selected->pruned) + ", scores";
    for (const double score : selected->scores) {
      char text[32];
      std::snprintf(text, sizeof text, " %.2f", score);
      out_ += text;
    }
  } else if (const auto* finished = std::get_if<TreeFinished>(&event)) {
    const TreeUsage& usage = finished->usage;
    out_ += "finished: " + std::to_string(usage.prompt_tokens) + " prompt tokens, " +
            std::to_string(usage.cached_tokens) + " cached, " + std::to_string(usage.computed_tokens) +
            " computed, " + std::to_string(usage.generated_tokens) + " generated, " +
            std::to_string(usage.steps) + " steps";
  } else {
    out_ += "error: " + std::get<Error>(event).ToString();
  }
}

void TranscriptRunner::PrintBlocks() {
  const EngineStats stats = harness_->scheduler().Stats();
  out_ += "blocks: " + std::to_string(stats.blocks_free) + " free, " + std::to_string(stats.blocks_indexed) +
          " indexed, " + std::to_string(stats.blocks_live) + " live; preempted " +
          std::to_string(stats.preemptions) + ", evicted " + std::to_string(stats.evicted_blocks) + "\n";
}

void TranscriptRunner::PrintTree() {
  std::map<int32_t, size_t> depth;
  for (const KvNodeSnapshot& node : harness_->scheduler().Snapshot().nodes) {
    depth[node.id] = node.parent < 0 ? 0 : depth[node.parent] + 1;
    out_ += std::string(2 * depth[node.id], ' ') + "at " + std::to_string(node.begin_position) + ": " +
            std::to_string(node.tokens) + " tokens, " + std::to_string(node.computed_tokens) + " computed, " +
            std::to_string(node.blocks) + " blocks, " + std::to_string(node.pins) + " pins" +
            (node.indexed ? ", indexed " : " ") + List(node.first_token_ids) + "\n";
  }
}

void TranscriptRunner::PrintAnswer(const std::string& name) {
  const uint64_t id = ids_.at(name);
  for (const BranchSummary& branch : harness_->finished(id).branches) {
    out_ += "branch " + std::to_string(branch.branch) + " of " + std::to_string(branch.parent) + ", " +
            harness_->request(id).nodes[static_cast<size_t>(branch.node)].id + " " + List(branch.token_ids) +
            Name(branch.finish_reason) + (branch.terminal ? ", terminal" : "") + "\n";
  }
  const std::string difference = harness_->Compare(id);
  out_ += difference.empty() ? "as the oracle says\n" : "NOT as the oracle says: " + difference + "\n";
}

}  // namespace espalier::test
