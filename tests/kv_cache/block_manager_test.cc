#include "kv_cache/block_manager.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <set>

#include "base/logging.h"

namespace moed {
namespace {

using Tokens = std::vector<int32_t>;

Tokens Count(int32_t count, int32_t from = 0) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

BlockManagerOptions Options(int32_t num_blocks, int32_t block_size = 4, int32_t window = 0,
                            int32_t num_host_blocks = 0) {
  return {.num_blocks = num_blocks, .block_size = block_size, .window = window, .num_host_blocks = num_host_blocks};
}

// Extends the table with what is cached of `tokens`, up to `limit` positions; returns how many it holds.
int64_t TakeCached(BlockManager* blocks, const Tokens& tokens, int64_t limit, BlockTable* table) {
  std::vector<PrefixIndex::Node> path;
  blocks->Lookup(*table, tokens, limit, &path);
  const int64_t length = blocks->LongestPrefix(*table, path, limit);
  blocks->Adopt(path, length, table);
  return length;
}

// A table whose `tokens` are all computed.
BlockTable Computed(BlockManager* blocks, std::string_view salt, const Tokens& tokens) {
  BlockTable table;
  blocks->Open(salt, &table);
  blocks->Grow(tokens.size(), &table);
  blocks->Publish(tokens, tokens.size(), &table);
  return table;
}

void Leave(BlockManager* blocks, std::string_view salt, const Tokens& tokens) {
  BlockTable table = Computed(blocks, salt, tokens);
  blocks->Release(&table);
}

int64_t CachedLength(BlockManager* blocks, std::string_view salt, const Tokens& tokens) {
  BlockTable table;
  blocks->Open(salt, &table);
  const int64_t length = TakeCached(blocks, tokens, tokens.size(), &table);
  blocks->Release(&table);
  return length;
}

TEST(BlockManagerTest, GivesEveryBlockOnce) {
  BlockManager blocks(Options(5));
  std::set<int32_t> ids;
  for (int i = 0; i < 5; ++i) ids.insert(blocks.Allocate());
  EXPECT_EQ(ids, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_free(), 0);
  blocks.CheckInvariants();
  for (const int32_t id : ids) blocks.Unref(id);
  EXPECT_EQ(blocks.num_free(), 5);
  blocks.CheckInvariants();
}

TEST(BlockManagerTest, GrowsByWholeBlocks) {
  BlockManager blocks(Options(10, 4));
  BlockTable table;
  blocks.Open("", &table);
  blocks.Grow(1, &table);
  EXPECT_EQ(table.ids.size(), 1u);
  blocks.Grow(4, &table);
  EXPECT_EQ(table.ids.size(), 1u);
  blocks.Grow(5, &table);
  EXPECT_EQ(table.ids.size(), 2u);
  EXPECT_EQ(blocks.Capacity(table), 40);
  blocks.Release(&table);
  EXPECT_EQ(blocks.num_free(), 10);
}

TEST(BlockManagerTest, SharesFullBlocksOfTheSameBeginning) {
  BlockManager blocks(Options(20, 4));
  BlockTable first = Computed(&blocks, "tenant", Count(10));
  BlockTable second;
  blocks.Open("tenant", &second);
  Tokens other = Count(8);
  other.insert(other.end(), {99, 98, 97, 96, 95});
  EXPECT_EQ(TakeCached(&blocks, other, 12, &second), 8) << "two full blocks, and not the third, half-filled one";
  EXPECT_EQ(second.ids[0], first.ids[0]);
  EXPECT_EQ(second.ids[1], first.ids[1]);
  EXPECT_EQ(blocks.refs(first.ids[1]), 2);
  blocks.Release(&first);
  EXPECT_EQ(blocks.refs(second.ids[1]), 1);
  blocks.CheckInvariants();
  blocks.Release(&second);
  EXPECT_EQ(blocks.num_free(), 20);
  EXPECT_EQ(blocks.num_cached(), 2);
}

TEST(BlockManagerTest, NothingIsFoundBeforeItIsComputed) {
  BlockManager blocks(Options(20, 4));
  BlockTable table;
  blocks.Open("", &table);
  blocks.Grow(12, &table);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 0);
  blocks.Publish(Count(12), 7, &table);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 4);
  blocks.Publish(Count(12), 12, &table);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);
}

TEST(BlockManagerTest, TheLimitLeavesTheLastTokenToBeComputed) {
  BlockManager blocks(Options(20, 4));
  Leave(&blocks, "", Count(8));
  BlockTable table;
  blocks.Open("", &table);
  EXPECT_EQ(TakeCached(&blocks, Count(8), 7, &table), 4);
}

TEST(BlockManagerTest, TenantsShareNothing) {
  BlockManager blocks(Options(20, 4));
  Leave(&blocks, "one", Count(8));
  EXPECT_EQ(CachedLength(&blocks, "two", Count(8)), 0);
  EXPECT_EQ(CachedLength(&blocks, "", Count(8)), 0);
  EXPECT_EQ(CachedLength(&blocks, "one", Count(8)), 8);
}

TEST(BlockManagerTest, ACollidingHashGivesNobodyAnothersBlocks) {
  BlockManagerOptions options = Options(100, 4);
  options.prefix_hash_mask = 0;
  BlockManager blocks(options);
  for (int32_t from = 0; from < 10; ++from) Leave(&blocks, "", Count(8, 100 * from));
  EXPECT_EQ(CachedLength(&blocks, "", Count(8, 50)), 0);
  for (int32_t from = 0; from < 10; ++from) EXPECT_EQ(CachedLength(&blocks, "", Count(8, 100 * from)), 8);
}

TEST(BlockManagerTest, EvictsTheLeastRecentlyUsedAndTailsBeforeHeads) {
  BlockManager blocks(Options(6, 4));
  Leave(&blocks, "", Count(12));       // a: three blocks
  Leave(&blocks, "", Count(12, 100));  // b: the other three
  EXPECT_EQ(blocks.num_cached(), 6);
  EXPECT_EQ(blocks.num_free(), 6);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);  // a is the more recent one now
  std::vector<int32_t> taken = {blocks.Allocate()};
  EXPECT_EQ(CachedLength(&blocks, "", Count(12, 100)), 8);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);
  for (int i = 0; i < 2; ++i) taken.push_back(blocks.Allocate());
  EXPECT_EQ(CachedLength(&blocks, "", Count(12, 100)), 0);
  taken.push_back(blocks.Allocate());
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 8);
  blocks.CheckInvariants();
  for (const int32_t block : taken) blocks.Unref(block);
}

TEST(BlockManagerTest, TwoWhoComputeTheSameKeepTheirCopies) {
  BlockManager blocks(Options(20, 4));
  BlockTable first = Computed(&blocks, "", Count(8));
  BlockTable second = Computed(&blocks, "", Count(8));
  EXPECT_NE(first.ids[0], second.ids[0]);
  blocks.Release(&first);
  EXPECT_EQ(blocks.num_cached(), 2);
  blocks.Release(&second);
  EXPECT_EQ(blocks.num_cached(), 2) << "the copy that nobody can find is blank";
  blocks.CheckInvariants();
  EXPECT_EQ(CachedLength(&blocks, "", Count(8)), 8);
}

TEST(BlockManagerTest, ACopyInUseReplacesOneThatIsOnlyCached) {
  BlockManager blocks(Options(3, 4));
  Leave(&blocks, "", Count(4));
  BlockTable table = Computed(&blocks, "", Count(4));
  EXPECT_EQ(blocks.num_cached(), 0);
  const int32_t a = blocks.Allocate();
  const int32_t b = blocks.Allocate();
  EXPECT_EQ(CachedLength(&blocks, "", Count(4)), 4);
  blocks.Unref(a);
  blocks.Unref(b);
  blocks.Release(&table);
}

TEST(BlockManagerTest, ASequenceTakesOverWhatOthersComputedMeanwhile) {
  BlockManager blocks(Options(20, 4));
  BlockTable late;
  blocks.Open("", &late);
  blocks.Grow(4, &late);  // its first block is being computed, and not published yet
  BlockTable early = Computed(&blocks, "", Count(16));
  EXPECT_EQ(TakeCached(&blocks, Count(20), 19, &late), 16);
  EXPECT_NE(late.ids[0], early.ids[0]);
  EXPECT_EQ(late.ids[1], early.ids[1]);
  EXPECT_EQ(late.ids[3], early.ids[3]);
  blocks.Grow(20, &late);
  blocks.Publish(Count(20), 20, &late);
  EXPECT_EQ(CachedLength(&blocks, "", Count(20)), 20);
  blocks.Release(&early);
  blocks.Release(&late);
  blocks.CheckInvariants();
  EXPECT_EQ(blocks.num_free(), 20);
}

TEST(BlockManagerTest, WithoutPrefixCachingNothingIsKept) {
  BlockManagerOptions options = Options(10, 4);
  options.enable_prefix_caching = false;
  BlockManager blocks(options);
  Leave(&blocks, "", Count(8));
  EXPECT_EQ(blocks.num_cached(), 0);
  EXPECT_EQ(CachedLength(&blocks, "", Count(8)), 0);
}

// ------------------------------------------------------------------------------------------------------------- windows

TEST(BlockManagerTest, GivesBackWhatLiesBehindTheWindow) {
  BlockManager blocks(Options(20, 4, /*window=*/6));
  BlockTable table;
  blocks.Open("", &table);
  blocks.Grow(16, &table);
  // The next token is at 9: it sees positions 4 to 9, blocks 1 and 2.
  blocks.ReleaseBehindWindow(9, &table);
  EXPECT_EQ(table.ids[0], kNoBlock);
  EXPECT_NE(table.ids[1], kNoBlock);
  EXPECT_EQ(blocks.num_free(), 17);
  // At 13 it sees 8 to 13.
  blocks.ReleaseBehindWindow(12, &table);
  EXPECT_NE(table.ids[1], kNoBlock);
  blocks.ReleaseBehindWindow(13, &table);
  EXPECT_EQ(table.ids[1], kNoBlock);
  EXPECT_NE(table.ids[2], kNoBlock);
  blocks.Release(&table);
  EXPECT_EQ(blocks.num_free(), 20);
}

TEST(BlockManagerTest, AWindowNeedsOnlyTheLastBlocksOfAPrefix) {
  BlockManager blocks(Options(6, 4, /*window=*/5));
  Leave(&blocks, "", Count(24));  // all six blocks, released from the tail on
  // Evicts the last two, blocks 5 and 4.
  const int32_t a = blocks.Allocate();
  const int32_t b = blocks.Allocate();
  BlockTable table;
  blocks.Open("", &table);
  EXPECT_EQ(TakeCached(&blocks, Count(24), 24, &table), 16);
  // A token at 16 sees 12 to 16: block 3 is enough.
  EXPECT_EQ(table.ids[0], kNoBlock);
  EXPECT_EQ(table.ids[2], kNoBlock);
  EXPECT_NE(table.ids[3], kNoBlock);
  EXPECT_EQ(blocks.num_free(), 3);
  blocks.Release(&table);
  blocks.Unref(a);
  blocks.Unref(b);
  blocks.CheckInvariants();
}

TEST(BlockManagerTest, MaxBlocksBoundsWhatAWindowHolds) {
  for (int32_t window : {1, 2, 5, 8, 9}) {
    for (int32_t step : {1, 3, 4, 10}) {
      BlockManager blocks(Options(100, 4, window));
      BlockTable table;
      blocks.Open("", &table);
      int64_t most = 0;
      for (int32_t position = 0; position < 200; position += step) {
        blocks.Grow(position + step, &table);
        most = std::max<int64_t>(most, 100 - blocks.num_free());
        blocks.ReleaseBehindWindow(position + step, &table);
      }
      EXPECT_LE(most, blocks.MaxBlocks(200, step)) << "window " << window << ", step " << step;
      EXPECT_LE(blocks.MaxBlocks(200, step), most + 1) << "window " << window << ", step " << step;
      blocks.Release(&table);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- host tier

std::vector<HostMove> Offload(BlockManager* blocks, int32_t num_next, bool done = true) {
  std::vector<HostMove> moves;
  blocks->ChooseOffloads(num_next, 100, &moves);
  for (const HostMove& move : moves) blocks->EndMove(move, done);
  blocks->CheckInvariants();
  return moves;
}

// Pushes out all that is cached on the device.
void Evict(BlockManager* blocks) {
  std::vector<int32_t> all;
  while (blocks->num_free() > 0) all.push_back(blocks->Allocate());
  for (const int32_t block : all) blocks->Unref(block);
}

// A table for `tokens`, as far as they are anywhere.
BlockTable Restored(BlockManager* blocks, const Tokens& tokens, std::vector<HostMove>* moves) {
  BlockTable table;
  blocks->Open("", &table);
  std::vector<PrefixIndex::Node> path;
  blocks->Lookup(table, tokens, tokens.size(), &path);
  blocks->Adopt(path, blocks->LongestPrefix(table, path, tokens.size(), /*from_host=*/true), &table, moves);
  return table;
}

TEST(BlockManagerHostTest, CopiesWhatIsNextToGoAndOnce) {
  BlockManager blocks(Options(5, 4, 0, 8));
  Leave(&blocks, "", Count(12));
  EXPECT_TRUE(Offload(&blocks, 2).empty()) << "two blocks are blank still";
  const std::vector<HostMove> moves = Offload(&blocks, 4);
  ASSERT_EQ(moves.size(), 2u);
  EXPECT_EQ(moves[0].block, 2) << "the tail was released first";
  EXPECT_EQ(moves[1].block, 1);
  EXPECT_EQ(Offload(&blocks, 5).size(), 1u);
  EXPECT_TRUE(Offload(&blocks, 5).empty()) << "all is there";
  EXPECT_EQ(blocks.num_on_host(), 3);
}

TEST(BlockManagerHostTest, WhatWasPushedOutComesBack) {
  BlockManager blocks(Options(5, 4, 0, 8));
  Leave(&blocks, "", Count(12));
  Offload(&blocks, 5);
  Evict(&blocks);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 0);
  std::vector<HostMove> moves;
  BlockTable table = Restored(&blocks, Count(14), &moves);
  EXPECT_EQ(table.ids.size(), 3u);
  EXPECT_EQ(moves.size(), 3u);
  for (const HostMove& move : moves) EXPECT_EQ(blocks.refs(move.block), 1);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 0) << "what is on the way cannot be found";
  for (const HostMove& move : moves) blocks.EndMove(move, true);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);
  blocks.Release(&table);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);
  EXPECT_TRUE(Offload(&blocks, 5).empty()) << "the host has it still";
  blocks.CheckInvariants();
}

TEST(BlockManagerHostTest, TakesFromTheDeviceWhatIsThere) {
  BlockManager blocks(Options(5, 4, 0, 8));
  Leave(&blocks, "", Count(20));
  Offload(&blocks, 5);
  for (int i = 0; i < 2; ++i) blocks.Allocate();  // the two at the end of the prefix
  std::vector<HostMove> moves;
  BlockTable table = Restored(&blocks, Count(12), &moves);
  EXPECT_EQ(table.ids.size(), 3u);
  EXPECT_TRUE(moves.empty());
  blocks.Release(&table);
}

TEST(BlockManagerHostTest, TwoMayFetchTheSameAtOnce) {
  BlockManager blocks(Options(6, 4, 0, 3));
  Leave(&blocks, "", Count(12));
  Offload(&blocks, 6);
  Evict(&blocks);
  std::vector<HostMove> first, second;
  BlockTable a = Restored(&blocks, Count(12), &first), b = Restored(&blocks, Count(12), &second);
  EXPECT_EQ(first.size(), 3u);
  EXPECT_EQ(second.size(), 3u);
  for (const HostMove& move : first) blocks.EndMove(move, true);
  for (const HostMove& move : second) blocks.EndMove(move, true);
  blocks.Release(&b);
  EXPECT_EQ(CachedLength(&blocks, "", Count(12)), 12);
  EXPECT_EQ(blocks.num_cached(), 0) << "the second's were nobody's prefix";
  blocks.Release(&a);
  blocks.CheckInvariants();
}

TEST(BlockManagerHostTest, WhatIsBeingReadDoesNotMakeRoom) {
  BlockManager blocks(Options(4, 4, 0, 2));
  Leave(&blocks, "", Count(8));
  Offload(&blocks, 4);
  Evict(&blocks);
  std::vector<HostMove> moves;
  BlockTable table = Restored(&blocks, Count(8), &moves);
  ASSERT_EQ(moves.size(), 2u);
  Leave(&blocks, "", Count(8, 50));
  EXPECT_TRUE(Offload(&blocks, 4).empty());
  for (const HostMove& move : moves) blocks.EndMove(move, true);
  EXPECT_EQ(Offload(&blocks, 4).size(), 2u) << "for the least recently used, which the device has again";
  blocks.Release(&table);
  blocks.CheckInvariants();
}

TEST(BlockManagerHostTest, AFullHostKeepsWhatWasUsedLast) {
  BlockManager blocks(Options(2, 4, 0, 4));
  for (const int32_t from : {0, 100, 0, 200}) {
    std::vector<HostMove> moves;
    BlockTable table = Restored(&blocks, Count(8, from), &moves);
    for (const HostMove& move : moves) blocks.EndMove(move, true);
    blocks.Grow(8, &table);
    blocks.Publish(Count(8, from), 8, &table);
    blocks.Release(&table);
    Offload(&blocks, 2);
  }
  Evict(&blocks);
  for (const auto& [from, length] : {std::pair{0, 8u}, {100, 0u}, {200, 8u}}) {
    std::vector<HostMove> moves;
    BlockTable table = Restored(&blocks, Count(8, from), &moves);
    EXPECT_EQ(table.ids.size() * 4, length) << from;
    for (const HostMove& move : moves) blocks.EndMove(move, true);
    blocks.Release(&table);
    Evict(&blocks);
  }
}

TEST(BlockManagerHostTest, AHostThatIsTooSmallComesToRest) {
  BlockManager blocks(Options(8, 4, 0, 3));
  Leave(&blocks, "", Count(32));
  const std::vector<HostMove> moves = Offload(&blocks, 8);
  ASSERT_EQ(moves.size(), 3u) << "the three that go next";
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Offload(&blocks, 8).empty());
  blocks.Unref(blocks.Allocate());  // the first of them is gone
  EXPECT_EQ(Offload(&blocks, 8).size(), 1u) << "one blank block, and two that are there: the next of three is new";
}

TEST(BlockManagerHostTest, AMoveThatFailedLeavesNothing) {
  BlockManager blocks(Options(4, 4, 0, 4));
  Leave(&blocks, "", Count(8));
  EXPECT_EQ(Offload(&blocks, 4, /*done=*/false).size(), 2u);
  EXPECT_EQ(blocks.num_on_host(), 0);
  EXPECT_EQ(Offload(&blocks, 4).size(), 2u) << "tried again";
  Evict(&blocks);
  std::vector<HostMove> moves;
  BlockTable table = Restored(&blocks, Count(8), &moves);
  for (const HostMove& move : moves) blocks.EndMove(move, false);
  blocks.Release(&table);
  EXPECT_EQ(CachedLength(&blocks, "", Count(8)), 0);
  EXPECT_EQ(blocks.num_on_host(), 2) << "from where it can be had once more";
  blocks.CheckInvariants();
}

// ---------------------------------------------------------------------------------------------------- bugs of our own

TEST(BlockManagerDeathTest, StopsAtOurBugs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  InitLogging("error");  // to stderr, where a death test looks
  BlockManager blocks(Options(2));
  const int32_t block = blocks.Allocate();
  blocks.Unref(block);
  EXPECT_DEATH(blocks.Unref(block), "released twice");
  EXPECT_DEATH(blocks.Ref(block), "holds nothing to be shared");
  blocks.Allocate();
  blocks.Allocate();
  EXPECT_DEATH(blocks.Allocate(), "no free block");
}

// ------------------------------------------------------------------------------------------------ against a slow model

// Sequences come, compute, and go at random. The model knows, for every block in use, the tokens that its user wrote;
// what a new sequence takes from the cache must be its own tokens, of its own tenant. Copies to the host and back are
// made when they start, and may fail, or end late.
class Fuzz {
 public:
  Fuzz(const BlockManagerOptions& options, uint64_t seed) : options_(options), blocks_(options), random_(seed) {
    content_.resize(options.num_blocks);
    host_content_.resize(options.num_host_blocks);
  }

  // Returns how many positions came from the host.
  int64_t Run(int steps) {
    for (int i = 0; i < steps; ++i) {
      switch (Draw(0, 7)) {
        case 0:
          Start();
          break;
        case 1:
          if (!live_.empty()) End(Draw(0, live_.size() - 1));
          break;
        case 2:
          StartOffloads();
          break;
        case 3:
          EndOffloads();
          break;
        default:
          if (!live_.empty()) Step(&live_[Draw(0, live_.size() - 1)]);
      }
      blocks_.CheckInvariants();
      CheckReferences();
    }
    while (!live_.empty()) End(0);
    EndOffloads();
    EXPECT_EQ(blocks_.num_free(), options_.num_blocks);
    Evict(&blocks_);
    EXPECT_EQ(blocks_.num_prefixes() > 0, blocks_.num_on_host() > 0) << "everything else is evicted";
    blocks_.CheckInvariants();
    EXPECT_GT(hits_, 0);
    return restored_;
  }

 private:
  struct Live {
    std::string salt;
    Tokens tokens;
    int32_t computed = 0;
    BlockTable table;
    std::vector<HostMove> restoring;
  };
  struct Content {
    std::string salt;
    Tokens prefix;  // up to and with the block's own tokens
  };

  int Draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void Start() {
    Live live;
    live.salt = Draw(0, 1) == 0 ? "a" : "b";
    // Few different tokens, so that prefixes meet often.
    for (int n = Draw(1, 40); n > 0; --n) live.tokens.push_back(Draw(0, 9) == 0 ? 1 : 0);
    blocks_.Open(live.salt, &live.table);
    TakeOver(&live);
    Restore(&live);
    live_.push_back(std::move(live));
  }

  void Restore(Live* live) {
    std::vector<PrefixIndex::Node> path;
    blocks_.Lookup(live->table, live->tokens, live->tokens.size(), &path);
    const int64_t length = blocks_.LongestPrefix(live->table, path, live->tokens.size(), /*from_host=*/true);
    if (length > blocks_.Capacity(live->table)) return;
    blocks_.Adopt(path, length, &live->table, &live->restoring);
    for (const HostMove& move : live->restoring) content_[move.block] = host_content_[move.host_block];
    restored_ += length - live->computed;
    live->computed = static_cast<int32_t>(length);
    CheckVisible(*live);
  }

  void EndRestore(Live* live, bool done) {
    for (const HostMove& move : live->restoring) {
      ASSERT_EQ(content_[move.block].prefix, host_content_[move.host_block].prefix) << "overwritten while it was read";
      blocks_.EndMove(move, done);
    }
    live->restoring.clear();
  }

  void StartOffloads() {
    const size_t before = offloads_.size();
    blocks_.ChooseOffloads(Draw(1, options_.num_blocks), Draw(1, 10), &offloads_);
    for (size_t i = before; i < offloads_.size(); ++i) {
      host_content_[offloads_[i].host_block] = content_[offloads_[i].block];
    }
  }

  void EndOffloads() {
    for (const HostMove& move : offloads_) {
      const bool done = Draw(0, 3) > 0;
      if (!done) host_content_[move.host_block] = {};
      blocks_.EndMove(move, done);
    }
    offloads_.clear();
  }

  void TakeOver(Live* live) {
    if (live->computed % options_.block_size != 0) return;
    const int64_t before = live->computed;
    live->computed = TakeCached(&blocks_, live->tokens, live->tokens.size(), &live->table);
    hits_ += live->computed - before;
    CheckVisible(*live);
  }

  void Step(Live* live) {
    EndRestore(live, true);
    if (Draw(0, 2) == 0) TakeOver(live);
    const int64_t want = std::min<int64_t>(live->tokens.size(), live->computed + Draw(1, 10));
    const int64_t end = std::min(want, blocks_.Capacity(live->table));
    if (end <= live->computed) return;
    blocks_.Grow(end, &live->table);
    for (int64_t i = live->computed / options_.block_size; i * options_.block_size < end; ++i) {
      const int64_t stop = std::min<int64_t>(end, (i + 1) * options_.block_size);
      EXPECT_EQ(blocks_.refs(live->table.ids[i]), 1) << "a shared block is written to";
      content_[live->table.ids[i]] = {live->salt, Tokens(live->tokens.begin(), live->tokens.begin() + stop)};
    }
    live->computed = end;
    blocks_.Publish(live->tokens, end, &live->table);
    blocks_.ReleaseBehindWindow(end, &live->table);
    CheckVisible(*live);
  }

  void End(int i) {
    EndRestore(&live_[i], Draw(0, 1) == 0);
    blocks_.Release(&live_[i].table);
    std::swap(live_[i], live_.back());
    live_.pop_back();
  }

  // All that the next token sees is there, and is the sequence's own.
  void CheckVisible(const Live& live) const {
    const int32_t size = options_.block_size;
    const int32_t first = options_.window == 0 ? 0 : std::max(0, live.computed - options_.window + 1);
    for (int32_t i = first / size; i * size < live.computed; ++i) {
      ASSERT_NE(live.table.ids[i], kNoBlock);
      const Content& content = content_[live.table.ids[i]];
      const int32_t stop = std::min(live.computed, (i + 1) * size);
      ASSERT_EQ(content.salt, live.salt);
      ASSERT_EQ(content.prefix, Tokens(live.tokens.begin(), live.tokens.begin() + stop));
    }
  }

  void CheckReferences() const {
    std::map<int32_t, int32_t> refs;
    for (const Live& live : live_) {
      for (const int32_t block : live.table.ids) {
        if (block != kNoBlock) ++refs[block];
      }
    }
    for (int32_t block = 0; block < options_.num_blocks; ++block) {
      ASSERT_EQ(blocks_.refs(block), refs.contains(block) ? refs.at(block) : 0);
    }
  }

  const BlockManagerOptions options_;
  BlockManager blocks_;
  std::mt19937_64 random_;
  std::vector<Content> content_;
  std::vector<Content> host_content_;
  std::vector<Live> live_;
  std::vector<HostMove> offloads_;  // under way
  int64_t hits_ = 0;
  int64_t restored_ = 0;
};

TEST(BlockManagerTest, RandomOperationsAgreeWithAModel) {
  const uint64_t fresh = std::random_device()();
  int64_t restored = 0;
  for (const uint64_t seed : {uint64_t{1}, uint64_t{2}, fresh}) {
    for (const int32_t window : {0, 1, 6, 13}) {
      for (const uint64_t mask : {~uint64_t{0}, uint64_t{0}, uint64_t{3}}) {
        for (const int32_t num_host_blocks : {0, 12, 60}) {
          SCOPED_TRACE(testing::Message() << "seed " << seed << ", window " << window << ", hash mask " << mask << ", "
                                          << num_host_blocks << " blocks on the host");
          BlockManagerOptions options = Options(30, 4, window, num_host_blocks);
          options.prefix_hash_mask = mask;
          restored += Fuzz(options, seed).Run(1500);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
  EXPECT_GT(restored, 100);
}

}  // namespace
}  // namespace moed
