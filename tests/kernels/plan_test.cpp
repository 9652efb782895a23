#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <limits>
#include <queue>
#include <string>
#include <vector>

#include "kernels/plan/attention_plan.h"
#include "kernels/plan/plan_builder.h"
#include "tests/kernels/forest.h"
#include "tests/support/catch.h"
#include "tests/support/sanitized.h"

namespace espalier::test {

namespace {

constexpr uint32_t kSmallForests = kSanitized ? 2000 : 20000;

constexpr AttentionMode kModes[] = {AttentionMode::kFlatten, AttentionMode::kSequence, AttentionMode::kMasked,
                                    AttentionMode::kNode, AttentionMode::kNodeChunk};

std::string MessageOf(const Status& status) { return status.ok() ? "accepted" : status.error().ToString(); }

AttentionShape Shape(int32_t query_heads, int32_t kv_heads) {
  AttentionShape shape;
  shape.layers = 2;
  shape.query_heads = query_heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = 64;
  return shape;
}

PlanOptions RandomOptions(Random& random) {
  PlanOptions options;
  options.mode = kModes[Pick(random, 0, 4)];
  options.max_tile_rows = Pick(random, 0, 3) == 0 ? Pick(random, 1, 5) : Pick(random, 6, 70);
  options.processors = Pick(random, 0, 1) == 0 ? Pick(random, 1, 4) : Pick(random, 5, 140);
  options.chunk_tokens = Pick(random, 1, 300);
  if (Pick(random, 0, 1) == 0)
    options.costs = {Pick(random, 1, 256), Pick(random, 1, 256), Pick(random, 1, 1 << 16)};
  return options;
}

Forest RandomForest(Random& random) {
  switch (Pick(random, 0, 9)) {
    case 0:
      return FewShotForest(random, Pick(random, 1, 1500), Pick(random, 1, 70), Pick(random, 0, 300));
    case 1:
      return FlatForest(random, Pick(random, 1, 40), 700);
    case 2:
      return DeepForest(random, Pick(random, 1, 40), 16 * Pick(random, 1, 4));
    case 3:
      return PrefillForest(random, Pick(random, 0, 600), Pick(random, 1, 200));
    case 4:
      return TokenTreeForest(random, Pick(random, 200, 520), Pick(random, 1, 100));
    default:
      return MixedForest(random, {4, 4, 4, Pick(random, 1, 40), 40}, 1 << Pick(random, 2, 5));
  }
}

// A change that makes a right plan wrong; false where the plan has no place for it.
struct Mutation {
  const char* name;
  std::function<bool(AttentionPlan&, Random&)> apply;
};

PlanItem& AnyItem(AttentionPlan& plan, Random& random) {
  return plan.items[static_cast<size_t>(Pick(random, 0, static_cast<int32_t>(plan.items.size()) - 1))];
}
PlanSegment& AnySegment(AttentionPlan& plan, Random& random) {
  return plan.segments[static_cast<size_t>(Pick(random, 0, static_cast<int32_t>(plan.segments.size()) - 1))];
}
PlanEntry& AnyEntry(AttentionPlan& plan, Random& random) {
  return plan.entries[static_cast<size_t>(Pick(random, 0, static_cast<int32_t>(plan.entries.size()) - 1))];
}

const std::vector<Mutation>& Mutations() {
  static const std::vector<Mutation> list = {
      {"drop an item", [](AttentionPlan& p, Random&) { return p.items.pop_back(), true; }},
      {"repeat an item", [](AttentionPlan& p, Random& r) { return p.items.push_back(AnyItem(p, r)), true; }},
      {"drop a segment", [](AttentionPlan& p, Random& r) { return --AnyItem(p, r).segments, true; }},
      {"begin with the next segment",
       [](AttentionPlan& p, Random& r) {
         PlanItem& item = AnyItem(p, r);
         return ++item.first_segment, --item.segments, true;
       }},
      {"drop an entry", [](AttentionPlan& p, Random& r) { return --AnySegment(p, r).entries, true; }},
      {"another segment's index", [](AttentionPlan& p, Random& r) { return ++AnySegment(p, r).index, true; }},
      {"a segment of more rows",
       [](AttentionPlan& p, Random& r) { return ++AnySegment(p, r).row_end, true; }},
      {"a segment of more columns",
       [](AttentionPlan& p, Random& r) { return --AnySegment(p, r).column_begin, true; }},
      {"a segment of fewer columns",
       [](AttentionPlan& p, Random& r) { return --AnySegment(p, r).column_end, true; }},
      {"a segment that costs more",
       [](AttentionPlan& p, Random& r) { return ++AnySegment(p, r).pairs, true; }},
      {"drop a token", [](AttentionPlan& p, Random& r) { return --AnyEntry(p, r).tokens, true; }},
      {"another block", [](AttentionPlan& p, Random& r) { return AnyEntry(p, r).block += 100000, true; }},
      {"another position", [](AttentionPlan& p, Random& r) { return ++AnyEntry(p, r).position, true; }},
      {"widen an interval", [](AttentionPlan& p, Random& r) { return ++AnyEntry(p, r).row_end, true; }},
      {"widen an interval upwards",
       [](AttentionPlan& p, Random& r) { return --AnyEntry(p, r).row_begin, true; }},
      {"narrow an interval",
       [](AttentionPlan& p, Random& r) {
         PlanEntry& entry = AnyEntry(p, r);
         if (entry.row_end - entry.row_begin < 2) return false;
         return --entry.row_end, true;
       }},
      {"own token as cached",
       [](AttentionPlan& p, Random& r) {
         PlanEntry& entry = AnyEntry(p, r);
         if (entry.first_own_row != entry.row_begin || entry.tokens < 2) return false;
         return entry.first_own_row = -1, true;
       }},
      {"swap entries",
       [](AttentionPlan& p, Random& r) {
         const PlanItem& item = AnyItem(p, r);
         auto& first = p.entries[static_cast<size_t>(p.SegmentsOf(item).front().first_entry)];
         auto& last = *(&first + (p.EntriesOf(item).size() - 1));
         // Entries of different branches may stand in either order.
         if (first.row_begin >= last.row_end || last.row_begin >= first.row_end) return false;
         if (first.position / kSegmentTokens == last.position / kSegmentTokens) return false;
         std::swap(first, last);
         return true;
       }},
      {"more rows", [](AttentionPlan& p, Random& r) { return ++AnyItem(p, r).rows, true; }},
      {"merge nothing",
       [](AttentionPlan& p, Random&) {
         if (p.merge_rows.empty()) return false;
         p.merge_rows.clear();
         p.merge_partials.clear();
         p.merge_begin.assign(1, 0);
         return true;
       }},
      {"merge the wrong partial",
       [](AttentionPlan& p, Random& r) {
         if (p.merge_partials.size() < 2) return false;
         const auto i = static_cast<size_t>(Pick(r, 0, static_cast<int32_t>(p.merge_partials.size()) - 2));
         std::swap(p.merge_partials[i], p.merge_partials[i + 1]);
         return true;
       }},
      {"merge a partial twice",
       [](AttentionPlan& p, Random&) {
         if (p.merge_partials.empty()) return false;
         p.merge_partials.push_back(p.merge_partials.back());
         ++p.merge_begin.back();
         return true;
       }},
      {"merge another row",
       [](AttentionPlan& p, Random&) {
         if (p.merge_rows.size() < 2) return false;
         std::swap(p.merge_rows.front(), p.merge_rows.back());
         return true;
       }},
      {"partials of two items overlap",
       [](AttentionPlan& p, Random&) {
         if (p.items.size() < 2 || p.items[0].first_partial < 0 || p.items[1].first_partial < 0) return false;
         p.items[1].first_partial = p.items[0].first_partial;
         return true;
       }},
      {"write a merged row directly",
       [](AttentionPlan& p, Random& r) {
         PlanItem& item = AnyItem(p, r);
         if (item.first_partial < 0) return false;
         return item.first_partial = -1, true;
       }},
      {"too few partials",
       [](AttentionPlan& p, Random&) {
         if (p.partials == 0) return false;
         return --p.partials, true;
       }},
  };
  return list;
}

// The least cost of tiling by trying every beginning of every tile.
int64_t NaiveTilingCost(const TreeBatch& batch, int32_t max_rows) {
  const std::vector<int32_t> shared = plan::SharedWithPreviousRow(batch);
  std::vector<int64_t> cost(static_cast<size_t>(batch.rows()) + 1, std::numeric_limits<int64_t>::max());
  cost[0] = 0;
  for (int32_t end = 1; end <= batch.rows(); ++end) {
    for (int32_t begin = end - 1; begin >= std::max(0, end - max_rows); --begin) {
      const auto b = static_cast<size_t>(begin);
      const int64_t here = cost[b] + shared[b] + plan::kTileTokens;
      cost[static_cast<size_t>(end)] = std::min(cost[static_cast<size_t>(end)], here);
      if (begin > 0) {
        const int64_t shorter = std::min(batch.row_position[b - 1], batch.row_position[b]) + 1;
        if (int64_t{shared[b]} * plan::kMinSharedPart < shorter) break;
      }
    }
  }
  return cost.back();
}

// The last end over the even share, if free processors take items in order; costs are tokens loaded.
double Unevenness(const AttentionPlan& plan, const AttentionShape& shape, int32_t processors) {
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> free_at;
  for (int32_t i = 0; i < processors; ++i) free_at.push(0);
  int64_t total = 0;
  int64_t last = 0;
  for (const PlanItem& item : plan.items) {
    int64_t cost = 0;
    for (const PlanSegment& segment : plan.SegmentsOf(item))
      cost += plan::CostOf(segment, shape.group(), PlanCosts{});
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      const int64_t done = free_at.top() + cost;
      free_at.pop();
      free_at.push(done);
      last = std::max(last, done);
      total += cost;
    }
  }
  return static_cast<double>(last) * processors / static_cast<double>(total);
}

int32_t MaxRows(const AttentionPlan& plan) {
  int32_t max = 0;
  for (const PlanItem& item : plan.items) max = std::max(max, item.rows);
  return max;
}

// A token that a row sees, as (position, block, slot).
using SeenToken = std::array<int32_t, 3>;

// What a row has to read, by walking the links of its tree.
std::vector<SeenToken> PathOf(const Forest& forest, int32_t row) {
  const TreeBatch& batch = forest.batch;
  std::vector<SeenToken> path;
  for (const int32_t n : forest.NodesSeenBy(row)) {
    const BatchNode& node = batch.nodes[static_cast<size_t>(n)];
    for (int32_t i = 0; i < node.cached_tokens; ++i) {
      const int32_t block = batch.blocks[static_cast<size_t>(node.first_block + i / batch.block_tokens)];
      path.push_back({node.begin_position + i, block, i % batch.block_tokens});
    }
  }
  for (const int32_t own : forest.RowsSeenBy(row)) {
    const auto slot = static_cast<int32_t>(batch.KvSlotOfRow(own));
    path.push_back(
        {batch.row_position[static_cast<size_t>(own)], slot / batch.block_tokens, slot % batch.block_tokens});
  }
  std::sort(path.begin(), path.end());
  return path;
}

// What each row reads by the plan, item by item.
std::vector<std::vector<SeenToken>> ReadBy(const AttentionPlan& plan, const TreeBatch& batch) {
  std::vector<std::vector<SeenToken>> read(static_cast<size_t>(batch.rows()));
  for (const PlanItem& item : plan.items) {
    for (const PlanEntry& entry : plan.EntriesOf(item)) {
      for (int32_t i = 0; i < entry.tokens; ++i) {
        const int32_t own = entry.first_own_row < 0 ? -1 : entry.first_own_row + i;
        const auto o = static_cast<size_t>(std::max(own, 0));
        const int32_t begin = std::max(entry.row_begin, own);
        const int32_t end = own < 0 ? entry.row_end : std::min(entry.row_end, batch.row_subtree_end[o]);
        const int32_t position = own < 0 ? entry.position + i : batch.row_position[o];
        for (int32_t row = begin; row < end; ++row)
          read[static_cast<size_t>(row)].push_back({position, entry.block, entry.first_kv_slot + i});
      }
    }
  }
  for (std::vector<SeenToken>& tokens : read) std::sort(tokens.begin(), tokens.end());
  return read;
}

}  // namespace

TEST_CASE("Every mode's plan of a random forest is proved right") {
  int32_t cut = 0;
  for (uint32_t seed = 0; seed < 2500; ++seed) {
    Random random(seed);
    const Forest forest = RandomForest(random);
    const PlanOptions options = RandomOptions(random);
    const int32_t kv_heads = Pick(random, 1, 8);
    const AttentionPlan plan =
        PlanAttention(forest.batch, Shape(kv_heads * Pick(random, 1, 8), kv_heads), options);
    INFO("seed " << seed << " mode " << Name(options.mode));
    REQUIRE(ValidateBatch(forest.batch).ok());
    const Status status = CheckPlan(forest.batch, plan, options);
    INFO(MessageOf(status));
    REQUIRE(status.ok());
    if (options.mode == AttentionMode::kFlatten && plan.partials > 0) ++cut;
  }
  REQUIRE(cut > 50);  // the forests exercise cuts
}

TEST_CASE("Rows read by every mode's plan what a naive walk of their paths reads") {
  for (uint32_t seed = 0; seed < kSmallForests; ++seed) {
    Random random(seed);
    const ForestLimits limits = {2, 3, 3, Pick(random, 1, 6), 8};
    const Forest forest = MixedForest(random, limits, 1 << Pick(random, 2, 5));
    PlanOptions options = RandomOptions(random);
    options.max_tile_rows = Pick(random, 1, 20);
    options.mode = kModes[seed % std::size(kModes)];
    const AttentionPlan plan = PlanAttention(forest.batch, Shape(8, 2), options);
    const auto read = ReadBy(plan, forest.batch);
    bool same = true;
    for (int32_t row = 0; row < forest.batch.rows(); ++row)
      same = same && read[static_cast<size_t>(row)] == PathOf(forest, row);
    INFO("seed " << seed << " mode " << Name(options.mode));
    REQUIRE(same);
  }
}

TEST_CASE("An empty batch has an empty plan") {
  for (const AttentionMode mode : kModes) {
    PlanOptions options;
    options.mode = mode;
    const AttentionPlan plan = PlanAttention(TreeBatch{}, Shape(8, 8), options);
    REQUIRE(plan.items.empty());
    REQUIRE(CheckPlan(TreeBatch{}, plan, options).ok());
  }
}

TEST_CASE("Wrong plans are refused") {
  for (const Mutation& mutation : Mutations()) {
    int32_t applied = 0;
    for (uint32_t seed = 0; seed < 150; ++seed) {
      Random random(seed);
      const Forest forest = RandomForest(random);
      PlanOptions options = RandomOptions(random);
      if (options.mode == AttentionMode::kMasked) options.mode = AttentionMode::kFlatten;
      AttentionPlan plan = PlanAttention(forest.batch, Shape(4, 1), options);
      if (!mutation.apply(plan, random)) continue;
      ++applied;
      INFO(mutation.name << ", seed " << seed << " mode " << Name(options.mode));
      REQUIRE(!CheckPlan(forest.batch, plan, options).ok());
    }
    INFO(mutation.name);
    REQUIRE(applied > 0);
  }
}

TEST_CASE("Accounting agrees with counting pairs one by one") {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    const Forest forest = MixedForest(random, {});
    const AttentionShape shape = Shape(8, 2);
    int64_t pairs = 0;
    for (int32_t row = 0; row < forest.batch.rows(); ++row) {
      pairs += static_cast<int64_t>(forest.RowsSeenBy(row).size());
      for (const int32_t n : forest.NodesSeenBy(row)) {
        pairs += forest.batch.nodes[static_cast<size_t>(n)].cached_tokens;
      }
    }
    const int64_t token_bytes = int64_t{2} * 2 * 64 * 2 * shape.layers;
    INFO("seed " << seed);
    for (const AttentionMode mode : kModes) {
      PlanOptions options;
      options.mode = mode;
      options.processors = 4;
      const AttentionPlan plan = PlanAttention(forest.batch, shape, options);
      REQUIRE(plan.accounting.kv_read_bytes_sequence == pairs * token_bytes);
      REQUIRE(plan.accounting.flop == pairs * 8 * 64 * 4 * shape.layers);
      if (mode == AttentionMode::kSequence) {
        REQUIRE(plan.accounting.kv_read_bytes == plan.accounting.kv_read_bytes_sequence);
      } else if (mode != AttentionMode::kMasked) {
        REQUIRE(plan.accounting.kv_read_bytes <= plan.accounting.kv_read_bytes_sequence);
      }
      REQUIRE((plan.accounting.mask_bytes > 0) == (mode == AttentionMode::kMasked));
      REQUIRE((plan.accounting.partial_bytes > 0) == (plan.partials > 0));
    }
  }
}

TEST_CASE("masked reads a whole tree for every tile of its rows, and one mask bit for each row and token") {
  Random random(11);
  const Forest forest = FewShotForest(random, 640, 20, 10);
  const AttentionShape shape = Shape(8, 2);
  PlanOptions options;
  options.mode = AttentionMode::kMasked;
  options.max_tile_rows = 8;
  const AttentionPlan plan = PlanAttention(forest.batch, shape, options);
  const int64_t tokens = 640 + 20 * 11;
  REQUIRE(plan.accounting.kv_read_bytes == 3 * tokens * shape.KvBytesPerTokenLayer() * shape.layers);
  REQUIRE(plan.accounting.mask_bytes == 20 * tokens / 8 * shape.layers);
}

TEST_CASE("flatten loads a shared prompt once and sequence once per branch") {
  Random random(7);
  const Forest forest = FewShotForest(random, 4000, 50, 16);
  const AttentionShape shape = Shape(32, 8);
  PlanOptions options;
  options.processors = 2;
  const AttentionPlan plan = PlanAttention(forest.batch, shape, options);
  const int64_t token_bytes = shape.KvBytesPerTokenLayer() * shape.layers;
  REQUIRE(plan.accounting.kv_read_bytes == (4000 + 50 * 17) * token_bytes);
  REQUIRE(plan.accounting.kv_read_bytes_sequence == int64_t{50} * 4017 * token_bytes);
  REQUIRE(plan.partials == 0);
}

TEST_CASE("A flat batch that shares nothing becomes one-row tiles and reads what sequence reads") {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    Random random(seed);
    const Forest forest = FlatForest(random, Pick(random, 1, 100), 2000);
    PlanOptions options;
    options.processors = Pick(random, 1, 16);
    const AttentionPlan plan = PlanAttention(forest.batch, Shape(32, 8), options);
    INFO("seed " << seed);
    REQUIRE(MaxRows(plan) == 1);
    REQUIRE(plan.accounting.kv_read_bytes == plan.accounting.kv_read_bytes_sequence);
  }
}

TEST_CASE("Tiles load as few tokens twice as any tiling can") {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    const Forest forest = RandomForest(random);
    const int32_t max_rows = Pick(random, 1, 20);
    const std::vector<int32_t> shared = plan::SharedWithPreviousRow(forest.batch);
    int64_t cost = 0;
    int32_t next = 0;
    INFO("seed " << seed);
    for (const plan::RowRange tile : plan::TileRows(forest.batch, max_rows)) {
      REQUIRE(tile.begin == next);
      REQUIRE(tile.size() >= 1);
      REQUIRE(tile.size() <= max_rows);
      next = tile.end;
      cost += shared[static_cast<size_t>(tile.begin)] + plan::kTileTokens;
    }
    REQUIRE(next == forest.batch.rows());
    REQUIRE(cost == NaiveTilingCost(forest.batch, max_rows));
  }
}

TEST_CASE("Shared tokens of neighbouring rows are those that both see") {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    const Forest forest = MixedForest(random, {});
    const std::vector<int32_t> shared = plan::SharedWithPreviousRow(forest.batch);
    INFO("seed " << seed);
    for (int32_t row = 1; row < forest.batch.rows(); ++row) {
      int32_t both = 0;
      const auto before = forest.RowsSeenBy(row - 1);
      for (const int32_t own : forest.RowsSeenBy(row)) {
        both += static_cast<int32_t>(std::count(before.begin(), before.end(), own));
      }
      const auto nodes_before = forest.NodesSeenBy(row - 1);
      for (const int32_t n : forest.NodesSeenBy(row)) {
        if (std::find(nodes_before.begin(), nodes_before.end(), n) == nodes_before.end()) continue;
        both += forest.batch.nodes[static_cast<size_t>(n)].cached_tokens;
      }
      REQUIRE(shared[static_cast<size_t>(row)] == both);
    }
  }
}

TEST_CASE("KV is cut where whole tiles cannot keep processors busy") {
  Random random(3);
  struct Case {
    const char* name;
    Forest forest;
    AttentionShape shape;
    int32_t processors;
  };
  const std::vector<Case> cases = {
      {"one row, one KV head", FlatForest(random, 1, 8000), Shape(8, 1), 4},
      {"20 branches, MQA", FewShotForest(random, 4096, 20, 10), Shape(8, 1), 2},
      {"50 branches", FewShotForest(random, 8192, 50, 100), Shape(32, 8), 16},
      {"prefill", PrefillForest(random, 2048, 512), Shape(32, 8), 16},
  };
  for (const Case& c : cases) {
    PlanOptions options;
    options.processors = c.processors;
    const AttentionPlan plan = PlanAttention(c.forest.batch, c.shape, options);
    const double unevenness = Unevenness(plan, c.shape, c.processors);
    INFO(c.name << ": " << unevenness << " items " << plan.items.size());
    REQUIRE(unevenness < 1.25);
  }
}

TEST_CASE("KV is cut no further than there is memory for partials") {
  Random random(5);
  const Forest forest = FewShotForest(random, 16 * kSegmentTokens, 20, 10);
  const AttentionShape shape = {.layers = 1, .query_heads = 8, .kv_heads = 2, .head_dim = 64};
  for (const AttentionMode mode : {AttentionMode::kFlatten, AttentionMode::kSequence}) {
    PlanOptions options;
    options.mode = mode;
    options.processors = 132;
    const AttentionPlan free = PlanAttention(forest.batch, shape, options);
    REQUIRE(free.partials > 0);
    for (const int64_t limit :
         {int64_t{free.partials}, int64_t{free.partials} - 1, int64_t{100}, int64_t{0}}) {
      options.max_partials = limit;
      const AttentionPlan plan = PlanAttention(forest.batch, shape, options);
      INFO(Name(mode) << " limit " << limit << ": " << plan.partials);
      REQUIRE(CheckPlan(forest.batch, plan, options).ok());
      REQUIRE(plan.partials <= limit);
      REQUIRE(plan.accounting.flop == free.accounting.flop);
      if (limit == free.partials) REQUIRE(plan.partials == free.partials);
    }
  }
}

TEST_CASE("Tiles are lowered where one segment of KV leaves processors idle") {
  Random random(5);
  const Forest forest = FewShotForest(random, 160, 32, 10);
  const AttentionShape shape = Shape(32, 4);
  PlanOptions options;
  options.processors = 4;
  REQUIRE(PlanAttention(forest.batch, shape, options).items.size() == 1);
  options.processors = 16;
  const AttentionPlan plan = PlanAttention(forest.batch, shape, options);
  REQUIRE(CheckPlan(forest.batch, plan, options).ok());
  REQUIRE(plan.items.size() == 4);
  REQUIRE(plan.partials == 0);
}

TEST_CASE("Mode names are read back") {
  for (const AttentionMode mode : kModes) REQUIRE(ParseAttentionMode(Name(mode)) == mode);
  REQUIRE(!ParseAttentionMode("tree").has_value());
}

}  // namespace espalier::test
