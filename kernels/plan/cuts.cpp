#include <algorithm>
#include <queue>

#include "kernels/plan/plan_builder.h"

namespace espalier::plan {

namespace {

// With this many units of work for each processor, cutting further gains nothing.
constexpr int64_t kManyUnits = 16;

class Cutter {
 public:
  Cutter(const std::vector<Tile>& tiles, const std::vector<PlanSegment>& segments,
         const AttentionShape& shape, const PlanOptions& options)
      : tiles_(tiles),
        segments_(segments),
        shape_(shape),
        costs_(options.costs),
        processors_(std::max(options.processors, 1)),
        max_partials_(options.max_partials) {}

  Cuts Run() const {
    Cuts best;
    best.parts = CutTo(std::numeric_limits<int64_t>::max());
    int64_t even = 0;  // cost of a processor if work could be cut at will
    for (const TilePart& part : best.parts) even += part.cost * shape_.kv_heads;
    even = std::max<int64_t>(even / processors_, 1);
    best.time = TimeOf(best.parts, even);
    for (const int64_t pieces : {1, 2, 3, 4, 6, 8}) {
      if (best.time <= even + even / kEvenPart) break;
      Cuts cuts;
      cuts.parts = CutTo(std::max<int64_t>(even / pieces, 1));
      if (PartialsOf(cuts.parts) > max_partials_) break;  // smaller parts need no fewer
      cuts.time = TimeOf(cuts.parts, even);
      if (cuts.time < best.time - best.time / kEvenPart) best = std::move(cuts);
    }
    return best;
  }

 private:
  // Every tile in parts of about equal cost, none above `limit` where segments allow.
  std::vector<TilePart> CutTo(int64_t limit) const {
    std::vector<TilePart> parts;
    for (size_t t = 0; t < tiles_.size(); ++t) {
      const Tile& tile = tiles_[t];
      TilePart part;
      part.tile = static_cast<int32_t>(t);
      part.first_segment = tile.first_segment;
      const int64_t pieces = (tile.cost - 1) / limit + 1;
      if (pieces <= 1) {
        part.segments = tile.segments;
        part.cost = tile.cost + costs_.item;
        parts.push_back(part);
      } else {
        CutTile(tile, pieces, part, &parts);
      }
    }
    return parts;
  }

  // Closes a part at the first segment border at or after its share of the tile's cost.
  void CutTile(const Tile& tile, int64_t pieces, TilePart part, std::vector<TilePart>* parts) const {
    const size_t first = parts->size();
    const int32_t end = tile.first_segment + tile.segments;
    int64_t done = 0;
    int64_t piece = 1;
    part.cost = costs_.item;
    for (int32_t s = tile.first_segment; s < end; ++s) {
      const int64_t cost = CostOf(segments_[static_cast<size_t>(s)], shape_.group(), costs_);
      part.cost += cost + int64_t{tile.rows.size()} * shape_.group() * costs_.partial;
      done += cost;
      if (s + 1 < end && done * pieces < tile.cost * piece) continue;
      part.segments = s + 1 - part.first_segment;
      part.whole = part.segments == tile.segments;
      parts->push_back(part);
      part.first_segment = s + 1;
      part.cost = costs_.item;
      while (done * pieces >= tile.cost * piece) ++piece;
    }
    // One segment only: nothing to cut.
    if (parts->size() == first + 1) parts->back().cost = tile.cost + costs_.item;
  }

  // Those of the cut parts: a partial for each row and segment.
  int64_t PartialsOf(const std::vector<TilePart>& parts) const {
    int64_t partials = 0;
    for (const TilePart& part : parts) {
      if (part.whole) continue;
      partials += int64_t{part.segments} * tiles_[static_cast<size_t>(part.tile)].rows.size();
    }
    return partials;
  }

  // When the last processor ends if each takes the costliest unit left as soon as it is free.
  int64_t TimeOf(const std::vector<TilePart>& parts, int64_t even) const {
    std::vector<int64_t> costs;
    costs.reserve(parts.size());
    int64_t total = 0;
    for (const TilePart& part : parts) {
      costs.push_back(part.cost);
      total += part.cost * shape_.kv_heads;
    }
    if (costs.empty()) return 0;
    const int64_t costliest = *std::max_element(costs.begin(), costs.end());
    const int64_t units = static_cast<int64_t>(costs.size()) * shape_.kv_heads;
    if (units >= kManyUnits * processors_) {
      return std::max(costliest, total / processors_ + (costliest > even / 2 ? costliest / 2 : 0));
    }
    std::sort(costs.begin(), costs.end(), std::greater<>());
    std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> free_at(
        {}, std::vector<int64_t>(static_cast<size_t>(processors_), 0));
    int64_t last = 0;
    for (const int64_t cost : costs) {
      for (int32_t head = 0; head < shape_.kv_heads; ++head) {
        const int64_t done = free_at.top() + cost;
        free_at.pop();
        free_at.push(done);
        last = std::max(last, done);
      }
    }
    return last;
  }

  const std::vector<Tile>& tiles_;
  const std::vector<PlanSegment>& segments_;
  const AttentionShape& shape_;
  const PlanCosts costs_;
  int32_t processors_;
  int64_t max_partials_;
};

}  // namespace

Cuts CutTiles(const std::vector<Tile>& tiles, const std::vector<PlanSegment>& segments,
              const AttentionShape& shape, const PlanOptions& options) {
  return Cutter(tiles, segments, shape, options).Run();
}

}  // namespace espalier::plan
