#include "kv_cache/cache_groups.h"

#include <gtest/gtest.h>

#include <numeric>

namespace moed {
namespace {

using Tokens = std::vector<int32_t>;

Tokens Count(int32_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

int32_t CachedLength(CacheGroups* cache, const Tokens& tokens) {
  SequenceBlocks blocks;
  cache->Open("", &blocks);
  const int32_t length = cache->ExtendFromPrefix(tokens, 0, tokens.size(), &blocks);
  cache->Release(&blocks);
  return length;
}

void Leave(CacheGroups* cache, const Tokens& tokens) {
  SequenceBlocks blocks;
  cache->Open("", &blocks);
  ASSERT_EQ(cache->Grow(tokens.size(), &blocks), std::ssize(tokens));
  cache->Commit(tokens, tokens.size(), &blocks);
  cache->Release(&blocks);
}

TEST(CacheGroupsTest, GroupsAgreeOnWhatIsCached) {
  const BlockManagerOptions groups[] = {{.num_blocks = 20, .block_size = 4},
                                        {.num_blocks = 7, .block_size = 4, .window = 6}};
  CacheGroups cache(groups);
  Leave(&cache, Count(24));
  EXPECT_EQ(CachedLength(&cache, Count(24)), 24);
  // Takes six of the window's seven blocks, all but one of the first prompt's. The full group still has everything, to
  // no avail: at every length the window has a hole.
  Leave(&cache, Tokens(24, 77));
  EXPECT_EQ(cache.group(0).num_cached(), 12);
  EXPECT_EQ(CachedLength(&cache, Count(24)), 0);
  EXPECT_EQ(CachedLength(&cache, Tokens(24, 77)), 24);
  cache.CheckInvariants();
}

TEST(CacheGroupsTest, BlocksOfDifferentSizesMeetAtTheirCommonMultiple) {
  const BlockManagerOptions groups[] = {{.num_blocks = 20, .block_size = 6}, {.num_blocks = 20, .block_size = 4}};
  CacheGroups cache(groups);
  Leave(&cache, Count(23));  // three full blocks of the first group, five of the second
  EXPECT_EQ(CachedLength(&cache, Count(23)), 12);
}

TEST(CacheGroupsTest, GrowsAsFarAsTheScarcestGroupAllows) {
  const BlockManagerOptions groups[] = {{.num_blocks = 20, .block_size = 4}, {.num_blocks = 2, .block_size = 8}};
  CacheGroups cache(groups);
  SequenceBlocks blocks;
  cache.Open("", &blocks);
  EXPECT_EQ(cache.Grow(40, &blocks), 16);
  EXPECT_EQ(blocks[0].ids.size(), 4u);
  EXPECT_EQ(blocks[1].ids.size(), 2u);
  EXPECT_EQ(&cache.fullest_group(), &cache.group(1));
  cache.Release(&blocks);
  EXPECT_EQ(cache.fullest_group().num_free(), cache.fullest_group().options().num_blocks);
}

TEST(CacheGroupsTest, GroupsAgreeOnWhatTheHostHas) {
  const BlockManagerOptions groups[] = {{.num_blocks = 6, .block_size = 4, .num_host_blocks = 20},
                                        {.num_blocks = 6, .block_size = 4, .window = 6, .num_host_blocks = 2}};
  CacheGroups cache(groups);
  Leave(&cache, Count(24));
  HostMoves moves;
  cache.ChooseOffloads(24, 1, 1, &moves);
  EXPECT_EQ(moves[0].size(), 6u);
  EXPECT_EQ(moves[1].size(), 2u) << "the host has no more, for the two that were released last";
  cache.EndMoves(moves, true);
  Leave(&cache, Tokens(24, 77));  // pushes it all out
  EXPECT_EQ(CachedLength(&cache, Count(24)), 0);
  SequenceBlocks blocks;
  cache.Open("", &blocks);
  HostMoves restored;
  const int32_t length = cache.Restore(Count(24), 0, 24, &blocks, &restored);
  EXPECT_GT(length, 0);
  EXPECT_EQ(std::ssize(restored[0]) * 4, length);
  EXPECT_EQ(restored[1].size(), 2u) << "what the window shows";
  cache.EndMoves(restored, true);
  cache.Release(&blocks);
  EXPECT_EQ(CachedLength(&cache, Count(24)), length);
  cache.CheckInvariants();
}

TEST(CacheGroupsTest, MaxPositions) {
  const BlockManagerOptions full[] = {{.num_blocks = 10, .block_size = 4}};
  EXPECT_EQ(CacheGroups(full).MaxPositions(1000), 40);
  EXPECT_EQ(CacheGroups(full).MaxPositions(30), 30);
  const BlockManagerOptions window[] = {{.num_blocks = 3, .block_size = 4, .window = 6}};
  EXPECT_EQ(CacheGroups(window).MaxPositions(1000), 1000) << "a window goes on for ever";
  const BlockManagerOptions too_small[] = {{.num_blocks = 2, .block_size = 4, .window = 6}};
  EXPECT_EQ(CacheGroups(too_small).MaxPositions(1000), 8);
}

}  // namespace
}  // namespace moed
