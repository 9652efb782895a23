#include "engine/kv_tree.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/catch.h"

namespace espalier {
namespace {

constexpr int32_t kBlock = 4;

std::vector<int32_t> Iota(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A tree, and a pool of blocks whose KV slots hold a number that stands for the whole path up to a token:
// what a step writes is what a model would compute.
class Bench {
 public:
  explicit Bench(int32_t blocks)
      : allocator(blocks), tree(&allocator, kBlock), pool(static_cast<size_t>(blocks * kBlock), kPoison) {}

  // The rows of the path that are not issued, up to `rows`, in a step of their own. False: no blocks.
  bool Run(int32_t tail, int32_t rows = 1 << 20) {
    const int32_t known_end = tree.node(tail).begin_position + tree.node(tail).known_tokens;
    Begin();
    std::vector<int32_t> path;
    for (int32_t id = tail; id >= 0; id = tree.node(id).parent) path.push_back(id);
    bool complete = true;
    for (auto it = path.rbegin(); it != path.rend() && complete; ++it) {
      const KvNode& node = tree.node(*it);
      const int32_t missing = std::min(node.end_position(), known_end) - node.issued_end();
      const int32_t now = std::min(missing, rows);
      complete = now == missing && allocator.free_blocks() >= tree.BlocksForRows(*it, now);
      if (now <= 0 || allocator.free_blocks() < tree.BlocksForRows(*it, now)) continue;
      tree.IssueRows(*it, now, &memory);
      rows -= now;
    }
    End();
    return complete;
  }

  void Begin() { tree.BeginStep(++step); }

  // Executes and commits the step.
  void End() {
    for (const int32_t block : memory.zero_blocks)
      std::fill_n(pool.begin() + block * kBlock, kBlock, uint64_t{0});
    for (const BlockCopy& copy : memory.copies)
      std::copy_n(pool.begin() + copy.source * kBlock, copy.tokens, pool.begin() + copy.destination * kBlock);
    for (const int32_t id : tree.touched()) {
      const KvNode& node = tree.node(id);
      const std::vector<int32_t> path = Path(id);
      for (int32_t i = node.issued_before_step; i < node.issued_tokens; ++i)
        KvSlot(node, i) = Value(path, node.begin_position + i);
    }
    memory = {};
    tree.EndStep(true);
    tree.CommitStep(step);
  }

  std::vector<int32_t> Path(int32_t id) const {
    std::vector<int32_t> path;
    for (; id >= 0; id = tree.node(id).parent)
      path.insert(path.begin(), tree.node(id).tokens.begin(), tree.node(id).tokens.end());
    return path;
  }

  // Whether every issued token of the path to the tail node has the KV of `tokens`.
  bool Holds(int32_t tail, const std::vector<int32_t>& tokens) const {
    if (Path(tail) != tokens) return false;
    for (int32_t id = tail; id >= 0; id = tree.node(id).parent) {
      const KvNode& node = tree.node(id);
      for (int32_t i = 0; i < node.issued_tokens; ++i) {
        const int32_t block = node.blocks[static_cast<size_t>(i / kBlock)];
        if (pool[static_cast<size_t>(block * kBlock + i % kBlock)] != Value(tokens, node.begin_position + i))
          return false;
      }
    }
    return true;
  }

  void Poison() {
    for (const int32_t block : allocator.free_list())
      std::fill_n(pool.begin() + block * kBlock, kBlock, kPoison);
  }

  BlockAllocator allocator;
  KvTree tree;
  StepMemory memory;
  uint64_t step = 0;

 private:
  static constexpr uint64_t kPoison = 0xdead;

  static uint64_t Value(const std::vector<int32_t>& path, int32_t position) {
    uint64_t value = 1;
    for (int32_t i = 0; i <= position; ++i)
      value = value * 6364136223846793005U + static_cast<uint64_t>(path[static_cast<size_t>(i)]) + 7;
    return value;
  }
  uint64_t& KvSlot(const KvNode& node, int32_t token) {
    return pool[static_cast<size_t>(node.blocks[static_cast<size_t>(token / kBlock)] * kBlock +
                                    token % kBlock)];
  }

  std::vector<uint64_t> pool;
};

void CheckTree(const KvTree& tree) {
  const Status status = tree.Check();
  INFO((status.ok() ? "" : status.error().ToString()));
  CHECK(status.ok());
}

TEST_CASE("a prompt becomes shareable whole blocks and a private tail node with its last token") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const auto [tail, cached] = bench.tree.OpenPath(cache_namespace, Iota(9), 1 << 20);
  CHECK(cached == 0);
  CHECK(bench.tree.node(tail).begin_position == 8);
  CHECK(bench.tree.node(tail).size() == 1);
  CHECK(bench.Run(tail));
  CHECK(bench.Holds(tail, Iota(9)));
  bench.tree.Release(tail);
  CHECK(bench.tree.indexed_blocks() == 2);
  CHECK(bench.tree.Match(cache_namespace, Iota(9)).tokens == 8);
  CHECK(bench.tree.Match(cache_namespace, Iota(8)).tokens == 4);  // the last token's row is always computed
  CHECK(bench.tree.Match(bench.tree.AcquireCacheNamespace("other"), Iota(9)).tokens == 0);
  CheckTree(bench.tree);
}

TEST_CASE("equal prompts in flight share one prefill, and it goes on when the first asker leaves") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const int32_t first = bench.tree.OpenPath(cache_namespace, Iota(14), 1 << 20).tail;
  bench.Run(first, 6);
  const auto [second, cached] = bench.tree.OpenPath(cache_namespace, Iota(14), 1 << 20);
  CHECK(cached == 12);
  CHECK(bench.tree.node(first).parent == bench.tree.node(second).parent);
  bench.tree.Release(first);
  CHECK(bench.Run(second));
  CHECK(bench.Holds(second, Iota(14)));
  CHECK(bench.tree.live_blocks() == 4);
  CheckTree(bench.tree);
}

TEST_CASE("a promised prefill that no branch waits for any more is dropped but for what was computed") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(30), 1 << 20).tail;
  bench.Run(tail, 10);
  bench.tree.Release(tail);
  CHECK(bench.tree.Match(cache_namespace, Iota(30)).tokens == 8);
  CHECK(bench.tree.indexed_blocks() == 2);
  CHECK(bench.allocator.free_blocks() == 14);
  CheckTree(bench.tree);
}

TEST_CASE("a fork shares whole blocks and copies the tail") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(7), 0).tail;
  bench.Run(tail);
  bench.Begin();
  const int32_t fork = bench.tree.ForkTail(tail, 7, &bench.memory);
  CHECK(bench.memory.copies.size() == 1);
  CHECK(bench.memory.copies[0].tokens == 3);
  bench.tree.Append(fork, 100);
  bench.tree.Append(tail, 200);
  bench.tree.IssueRows(fork, 1, &bench.memory);
  bench.tree.IssueRows(tail, 1, &bench.memory);
  bench.End();
  std::vector<int32_t> expected = Iota(7);
  expected.push_back(100);
  CHECK(bench.Holds(fork, expected));
  expected.back() = 200;
  CHECK(bench.Holds(tail, expected));
  CHECK(bench.tree.live_blocks() == 3);
  CheckTree(bench.tree);
}

TEST_CASE("a promised part of a fork is found by others, who may compute it") {
  Bench bench(32);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(6), 1 << 20).tail;
  bench.Run(tail);
  bench.Begin();
  const int32_t fork = bench.tree.ForkTail(tail, 6, &bench.memory);
  bench.End();
  for (int32_t token = 6; token < 20; ++token) bench.tree.Append(fork, token);
  CHECK(bench.tree.PromiseTail(fork, 18));
  CHECK_FALSE(bench.tree.PromiseTail(fork, 18));
  CHECK(bench.tree.node(fork).begin_position == 16);
  const auto [other, cached] = bench.tree.OpenPath(cache_namespace, Iota(30), 1 << 20);
  CHECK(cached == 16);
  bench.tree.Release(fork);
  CHECK(bench.Run(other));
  CHECK(bench.Holds(other, Iota(30)));
  CHECK(bench.Holds(tail, Iota(6)));
  CheckTree(bench.tree);
}

TEST_CASE("the least recently used prefix is evicted first, block by block from its end") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const auto use = [&](int32_t first_token) {
    const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(13, first_token), 1 << 20).tail;
    CHECK(bench.Run(tail));
    bench.tree.Release(tail);
  };
  use(0);
  use(100);
  use(0);
  CHECK(bench.tree.Evict(2) == 2);
  CHECK(bench.tree.Match(cache_namespace, Iota(13, 100)).tokens == 4);
  CHECK(bench.tree.Match(cache_namespace, Iota(13, 0)).tokens == 12);
  CHECK(bench.tree.Evict(100) == 4);
  CHECK(bench.allocator.free_blocks() == 16);
  CheckTree(bench.tree);
}

TEST_CASE("a private cache namespace is forgotten when it is released") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquirePrivateCacheNamespace();
  const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(13), 1 << 20).tail;
  bench.Run(tail);
  bench.tree.Release(tail);
  CHECK(bench.tree.indexed_blocks() == 3);
  bench.tree.ReleaseCacheNamespace(cache_namespace);
  CHECK(bench.allocator.free_blocks() == 16);
  CheckTree(bench.tree);
}

TEST_CASE(
    "a private cache namespace of several branches goes whole, whatever else was let go before and after") {
  Bench bench(40);
  const int32_t shared = bench.tree.AcquireCacheNamespace("shared");
  const auto open = [&](int32_t cache_namespace, int32_t first_token) {
    const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(13, first_token), 1 << 20).tail;
    bench.Run(tail);
    return tail;
  };
  bench.tree.Release(open(shared, 50));
  const int32_t cache_namespace = bench.tree.AcquirePrivateCacheNamespace();
  const int32_t trunk = open(cache_namespace, 0);
  std::vector<int32_t> longer = Iota(13);
  for (int32_t token = 80; token < 88; ++token) longer.push_back(token);
  const int32_t branch = bench.tree.OpenPath(cache_namespace, longer, 1 << 20).tail;
  bench.Run(branch);
  const int32_t other = open(cache_namespace, 70);
  bench.tree.Release(trunk);
  bench.tree.Release(open(shared, 60));
  bench.tree.Release(other);
  bench.tree.Release(branch);
  bench.tree.Release(open(shared, 65));
  const int32_t kept = bench.tree.Match(shared, Iota(13, 50)).tokens +
                       bench.tree.Match(shared, Iota(13, 60)).tokens +
                       bench.tree.Match(shared, Iota(13, 65)).tokens;
  bench.tree.ReleaseCacheNamespace(cache_namespace);
  CheckTree(bench.tree);
  CHECK(kept == 3 * 12);
  CHECK(bench.tree.indexed_blocks() == 3 * 3);
  CHECK(bench.allocator.free_blocks() == 40 - 3 * 3);
}

TEST_CASE("releasing a private cache namespace looks at its own nodes only") {
  constexpr int32_t kCached = 500;
  Bench bench(4 * kCached + 40);
  const int32_t shared = bench.tree.AcquireCacheNamespace("shared");
  const int32_t cache_namespace = bench.tree.AcquirePrivateCacheNamespace();
  const auto cache = [&](int32_t in, int32_t first_token) {
    const int32_t tail = bench.tree.OpenPath(in, Iota(13, first_token), 1 << 20).tail;
    bench.Run(tail);
    bench.tree.Release(tail);
  };
  cache(cache_namespace, 0);  // let go early
  const int32_t held = bench.tree.OpenPath(cache_namespace, Iota(13, 7), 1 << 20).tail;
  bench.Run(held);
  for (int32_t i = 0; i < kCached; ++i) cache(shared, 100 * (i + 1));
  bench.tree.Release(held);
  bench.tree.ReleaseCacheNamespace(cache_namespace);
  CHECK(bench.tree.looked_at() == 2);
  CHECK(bench.tree.indexed_blocks() == 3 * kCached);
  CheckTree(bench.tree);
}

TEST_CASE("what is let go cold is evicted before all else, though it was used last") {
  Bench bench(16);
  const int32_t cache_namespace = bench.tree.AcquireCacheNamespace("");
  const auto cache = [&](int32_t first_token, bool cold) {
    const int32_t tail = bench.tree.OpenPath(cache_namespace, Iota(8, first_token), 4)
                             .tail;  // a block, and one in the tail node
    bench.Run(tail);
    bench.tree.Release(tail, cold);
  };
  cache(0, false);
  cache(50, true);
  const auto cached = [&](int32_t first_token) {
    return bench.tree.Match(cache_namespace, Iota(9, first_token)).tokens;
  };
  CHECK(cached(0) == 8);
  CHECK(cached(50) == 8);
  CHECK(bench.tree.Evict(1) == 1);
  CHECK(cached(0) == 8);
  CHECK(cached(50) == 4);  // what was above it has been used like all else
  CHECK(bench.tree.Evict(1) == 1);
  CHECK(cached(0) == 4);
  CheckTree(bench.tree);
}

// The naive model is the list of paths that are open; the KV of each must be that of its own tokens, whatever
// was shared, split, copied, evicted or promised meanwhile.
TEST_CASE("20,000 random operations keep every open path's KV and every block accounted for") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  Bench bench(40);
  const int32_t cache_namespaces[] = {bench.tree.AcquireCacheNamespace("a"),
                                      bench.tree.AcquireCacheNamespace("b")};
  struct Open {
    int32_t tail;
    std::vector<int32_t> tokens;
  };
  std::vector<Open> open;
  int64_t cached = 0;
  int64_t forks = 0;
  int64_t promises = 0;
  for (int operation = 0; operation < 20000; ++operation) {
    const uint64_t kind = random() % 10;
    Open* one = open.empty() ? nullptr : &open[random() % open.size()];
    if (kind < 2 && open.size() < 8) {
      std::vector<int32_t> tokens(1 + random() % 20);
      for (int32_t& token : tokens) token = random() % 8 == 0 ? 1 : 0;
      const auto opened =
          bench.tree.OpenPath(cache_namespaces[random() % 2], tokens, static_cast<int32_t>(random() % 30));
      cached += opened.cached_tokens;
      open.push_back({opened.tail, tokens});
    } else if (kind < 5 && one != nullptr) {
      if (!bench.Run(one->tail, 1 + static_cast<int32_t>(random() % 8))) bench.tree.Evict(2);
    } else if (kind < 7 && one != nullptr && one->tokens.size() < 40) {
      const auto token = static_cast<int32_t>(random() % 3);
      const int32_t position = static_cast<int32_t>(one->tokens.size());
      bench.tree.Append(one->tail, random() % 2 == 0 ? token : kUnknownToken);
      if (bench.tree.node(one->tail).known_tokens < bench.tree.node(one->tail).size())
        bench.tree.SetToken(one->tail, position, token);
      one->tokens.push_back(token);
      bench.tree.IndexTail(one->tail, false);
      if (random() % 4 == 0)
        promises += bench.tree.PromiseTail(one->tail, static_cast<int32_t>(random() % 50));
    } else if (kind < 8 && one != nullptr && open.size() < 8) {
      const KvNode& tail = bench.tree.node(one->tail);
      const int32_t lowest = tail.begin_position + tail.indexed_tokens;
      if (tail.issued_end() < lowest || bench.allocator.free_blocks() < 1) continue;
      const int32_t keep =
          lowest + static_cast<int32_t>(random() % static_cast<uint64_t>(tail.issued_end() - lowest + 1));
      bench.Begin();
      const int32_t fork = bench.tree.ForkTail(one->tail, keep, &bench.memory);
      bench.End();
      ++forks;
      open.push_back({fork, one->tokens});
    } else if (kind < 9 && one != nullptr) {
      bench.tree.Release(one->tail);
      std::swap(*one, open.back());
      open.pop_back();
    } else {
      bench.tree.Evict(static_cast<int32_t>(random() % 4));
    }
    bench.Poison();
    const Status status = bench.tree.Check();
    if (!status.ok()) FAIL("operation " << operation << ": " << status.error().ToString());
    for (const Open& path : open) {
      if (!bench.Holds(path.tail, path.tokens)) FAIL("operation " << operation << ": a path has foreign KV");
    }
  }
  CHECK(cached > 1000);
  CHECK(forks > 500);
  CHECK(promises > 100);
  for (const Open& path : open) bench.tree.Release(path.tail);
  bench.tree.Evict(1000);
  CHECK(bench.allocator.free_blocks() == 40);
}

}  // namespace
}  // namespace espalier
