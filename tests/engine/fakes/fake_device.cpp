#include "tests/engine/fakes/fake_device.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace espalier::test {
namespace {

std::string Text(const char* what, int64_t a) { return std::string(what) + " " + std::to_string(a); }
std::string Text(const char* what, int64_t a, const char* then, int64_t b) {
  return Text(what, a) + " " + then + " " + std::to_string(b);
}

}  // namespace

FakeDevice::FakeDevice(FakeModelOptions model, int32_t total_blocks, int32_t block_tokens, int32_t max_rows)
    : model_(std::move(model)),
      total_blocks_(total_blocks),
      block_tokens_(block_tokens),
      max_rows_(max_rows),
      kv_(static_cast<size_t>(int64_t{total_blocks} * block_tokens)) {}

void FakeDevice::Poison(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    for (int32_t i = 0; i < block_tokens_; ++i) kv_[static_cast<size_t>(block * block_tokens_ + i)] = {};
  }
}

StepResult FakeDevice::Execute(const StepInput& step) {
  StepResult result;
  result.step_id = step.step_id;
  ++steps_;
  if (!CheckShape(step)) return result;
  rows_ += step.batch.rows();
  MoveBlocks(step);
  for (const SequenceHistory& history : step.histories) {
    FakeHistory& set = histories_[history.sequence_slot] = {};
    history.ForEachPiece([&](const PathHistory& piece) {
      if (piece.pieces > kMaxHistoryPieces) Report("a history of too many pieces");
      set.prompt_tokens.insert(set.prompt_tokens.end(), piece.prompt_tokens.begin(),
                               piece.prompt_tokens.end());
      set.generated_tokens.insert(set.generated_tokens.end(), piece.generated_tokens.begin(),
                                  piece.generated_tokens.end());
    });
  }
  WriteRows(step);
  const std::vector<uint64_t> states = StatesByBatch(step);
  if (states != StatesByPlan(step)) Report("the plan shows other tokens than the batch");
  Sample(step, states, &result);
  return result;
}

bool FakeDevice::CheckShape(const StepInput& step) {
  const int32_t rows = step.batch.rows();
  if (step.batch.block_tokens != block_tokens_) Report("block_tokens differs");
  if (rows > max_rows_) Report(Text("too many rows:", rows));
  if (static_cast<int32_t>(step.tokens.size()) != rows) Report("tokens and rows differ in number");
  if (!std::is_sorted(step.logit_rows.begin(), step.logit_rows.end()) ||
      std::adjacent_find(step.logit_rows.begin(), step.logit_rows.end()) != step.logit_rows.end()) {
    Report("logit_rows are not ascending");
  }
  if (!step.logit_rows.empty() && (step.logit_rows.front() < 0 || step.logit_rows.back() >= rows)) {
    Report("logit_rows beyond the rows");
  }
  for (const int32_t block : step.batch.blocks) {
    if (block < 0 || block >= total_blocks_) Report(Text("no such block:", block));
  }
  if (rows > 0) {
    const Status valid = ValidateBatch(step.batch);
    if (!valid.ok()) Report("invalid batch: " + valid.error().ToString());
  }
  return problem_.empty();
}

void FakeDevice::Write(int64_t slot, KvSlot value) {
  KvSlot& place = kv_[static_cast<size_t>(slot)];
  if (place.state == KvSlotState::kPoisoned) Report(Text("write to a free or never zeroed KV slot", slot));
  // Rows may be run again, but only to the same end.
  if (place.state == KvSlotState::kWritten &&
      (place.token_id != value.token_id || place.position != value.position)) {
    Report(Text("a KV slot is overwritten with something else:", slot));
  }
  place = value;
}

void FakeDevice::MoveBlocks(const StepInput& step) {
  for (const int32_t block : step.zero_blocks) {
    for (int32_t i = 0; i < block_tokens_; ++i) {
      kv_[static_cast<size_t>(block * block_tokens_ + i)] = {KvSlotState::kZeroed, -1, -1};
    }
  }
  std::unordered_set<int32_t> destinations;
  for (const BlockCopy& copy : step.copies) destinations.insert(copy.destination);
  for (const BlockCopy& copy : step.copies) {
    ++copies_;
    if (destinations.count(copy.source) != 0) Report(Text("a copy reads what another writes:", copy.source));
    if (copy.source == copy.destination) Report(Text("copy of a block onto itself:", copy.source));
    if (copy.tokens <= 0 || copy.tokens > block_tokens_) Report(Text("copy of tokens:", copy.tokens));
    for (int32_t i = 0; i < copy.tokens; ++i) {
      const KvSlot& source = kv_[static_cast<size_t>(copy.source * block_tokens_ + i)];
      if (source.state != KvSlotState::kWritten)
        Report(Text("copy from an unwritten KV slot of block", copy.source));
      Write(int64_t{copy.destination} * block_tokens_ + i, source);
    }
  }
}

void FakeDevice::WriteRows(const StepInput& step) {
  for (int32_t row = 0; row < step.batch.rows(); ++row) {
    const RowToken& input = step.tokens[static_cast<size_t>(row)];
    int32_t token = input.token_id;
    if (token < 0) {
      const auto last = last_token_.find(input.sequence_slot);
      if (last == last_token_.end()) {
        Report(Text("row", row, "reads a sequence slot without a token:", input.sequence_slot));
      } else {
        token = last->second;
      }
    }
    if (token >= model_.options().vocab_size) Report(Text("no such token:", token));
    Write(step.batch.KvSlotOfRow(row),
          {KvSlotState::kWritten, token, step.batch.row_position[static_cast<size_t>(row)]});
  }
}

void FakeDevice::ExtendBy(int64_t slot, int32_t row, int32_t* next_position, uint64_t* state) {
  const KvSlot& kv = kv_[static_cast<size_t>(slot)];
  if (kv.state != KvSlotState::kWritten) Report(Text("row", row, "reads an unwritten KV slot:", slot));
  if (kv.position != *next_position) {
    Report(Text("row", row, "misses position", *next_position) + Text(", sees", kv.position));
  }
  *state = FakeModel::Extend(*state, kv.position, kv.token_id);
  ++*next_position;
}

std::vector<uint64_t> FakeDevice::StatesByBatch(const StepInput& step) {
  const TreeBatch& batch = step.batch;
  struct End {
    uint64_t state = 0;
    int32_t position = 0;
  };
  // Of each node: after its cached tokens, and after those of its rows that the node's children see.
  std::vector<End> ends(batch.nodes.size());
  std::vector<uint64_t> states(static_cast<size_t>(batch.rows()));
  for (size_t n = 0; n < batch.nodes.size(); ++n) {
    const BatchNode& node = batch.nodes[n];
    End end = node.parent < 0 ? End{} : ends[static_cast<size_t>(node.parent)];
    for (int32_t i = 0; i < node.cached_tokens; ++i) {
      const int64_t block = batch.blocks[static_cast<size_t>(node.first_block + i / block_tokens_)];
      ExtendBy(block * block_tokens_ + i % block_tokens_, node.first_row, &end.position, &end.state);
    }
    const End cached = end;
    for (int32_t row = node.first_row; row < node.first_row + node.rows; ++row) {
      end = cached;
      for (int32_t seen = node.first_row; seen <= row; ++seen) {
        if (batch.row_subtree_end[static_cast<size_t>(seen)] <= row) continue;
        ExtendBy(batch.KvSlotOfRow(seen), row, &end.position, &end.state);
      }
      states[static_cast<size_t>(row)] = end.state;
      if (end.position != batch.row_position[static_cast<size_t>(row)] + 1) {
        Report(Text("the path does not end at the own position of row", row));
      }
    }
    end = cached;
    for (int32_t seen = node.first_row; seen < node.first_row + node.rows; ++seen) {
      if (batch.row_subtree_end[static_cast<size_t>(seen)] < node.subtree_end_row) continue;
      ExtendBy(batch.KvSlotOfRow(seen), seen, &end.position, &end.state);
    }
    ends[n] = end;
  }
  return states;
}

std::vector<uint64_t> FakeDevice::StatesByPlan(const StepInput& step) {
  const TreeBatch& batch = step.batch;
  // [rows] (position, slot) of all that the row sees.
  std::vector<std::vector<std::pair<int32_t, int64_t>>> seen(static_cast<size_t>(batch.rows()));
  for (const PlanItem& item : step.plan.items) {
    for (const PlanEntry& entry : step.plan.EntriesOf(item)) {
      for (int32_t row = std::max(entry.row_begin, item.first_row);
           row < std::min(entry.row_end, item.first_row + item.rows); ++row) {
        for (int32_t i = 0; i < entry.tokens; ++i) {
          int32_t position = entry.position + i;
          if (entry.first_own_row >= 0) {
            const int32_t own = entry.first_own_row + i;
            if (row < own || row >= batch.row_subtree_end[static_cast<size_t>(own)]) continue;
            position = batch.row_position[static_cast<size_t>(own)];
          }
          seen[static_cast<size_t>(row)].emplace_back(
              position, int64_t{entry.block} * block_tokens_ + entry.first_kv_slot + i);
        }
      }
    }
  }
  std::vector<uint64_t> states(static_cast<size_t>(batch.rows()));
  for (int32_t row = 0; row < batch.rows(); ++row) {
    auto& list = seen[static_cast<size_t>(row)];
    std::sort(list.begin(), list.end());
    int32_t position = 0;
    for (const auto& [at, slot] : list) {
      if (at != position) Report(Text("the plan has a wrong position for row", row));
      ExtendBy(slot, row, &position, &states[static_cast<size_t>(row)]);
    }
  }
  return states;
}

void FakeDevice::Sample(const StepInput& step, const std::vector<uint64_t>& states, StepResult* result) {
  std::vector<std::vector<float>> logits;
  for (const int32_t row : step.logit_rows) logits.push_back(model_.Logits(states[static_cast<size_t>(row)]));
  for (const SampleRequest& sample : step.samples) {
    const SamplingParams& params = step.params.at(static_cast<size_t>(sample.params));
    const int32_t row = step.logit_rows.at(static_cast<size_t>(sample.logit_index));
    if (sample.position != step.batch.row_position[static_cast<size_t>(row)] + 1) {
      Report(Text("sample position", sample.position, "does not follow its row", row));
    }
    if (params.UsesHistory() && histories_.count(sample.sequence_slot) == 0) {
      Report(Text("penalties without a history of sequence slot", sample.sequence_slot));
    }
    FakeHistory& history = histories_[sample.sequence_slot];
    result->samples.push_back(model_.Sample(logits[static_cast<size_t>(sample.logit_index)], params, history,
                                            sample.stream, sample.position, sample.top_logprobs));
    const int32_t token = result->samples.back().token_id;
    last_token_[sample.sequence_slot] = token;
    history.generated_tokens.push_back(token);
  }
  for (const ScoreRequest& score : step.scores) {
    result->scores.push_back(
        model_.Score(logits.at(static_cast<size_t>(score.logit_index)), score.token_id, score.top_logprobs));
  }
}

}  // namespace espalier::test
