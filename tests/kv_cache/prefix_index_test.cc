#include "kv_cache/prefix_index.h"

#include <gtest/gtest.h>

#include <vector>

namespace moed {
namespace {

using Tokens = std::vector<int32_t>;
using Node = PrefixIndex::Node;

TEST(PrefixIndexTest, ANodeIsItsWholePrefix) {
  PrefixIndex index(2);
  const Node root = index.AcquireRoot("tenant");
  const Node a = index.Acquire(root, Tokens{1, 2});
  const Node b = index.Acquire(root, Tokens{3, 4});
  const Node a_then_5 = index.Acquire(a, Tokens{5, 6});
  EXPECT_EQ(index.Find(root, Tokens{1, 2}), a);
  EXPECT_EQ(index.Find(root, Tokens{2, 1}), PrefixIndex::kNoNode);
  EXPECT_EQ(index.Find(a, Tokens{5, 6}), a_then_5);
  EXPECT_EQ(index.Find(b, Tokens{5, 6}), PrefixIndex::kNoNode) << "the same block after another beginning";
  EXPECT_EQ(index.Acquire(a, Tokens{5, 6}), a_then_5);
}

TEST(PrefixIndexTest, SaltsPartTenants) {
  PrefixIndex index(2);
  const Node first = index.AcquireRoot("first");
  const Node second = index.AcquireRoot("second");
  index.Acquire(first, Tokens{1, 2});
  EXPECT_NE(first, second);
  EXPECT_EQ(index.AcquireRoot("first"), first);
  EXPECT_EQ(index.Find(second, Tokens{1, 2}), PrefixIndex::kNoNode);
}

TEST(PrefixIndexTest, CollidingHashesAreToldApart) {
  PrefixIndex index(2, /*hash_mask=*/0);  // every key has the hash 0
  const Node root = index.AcquireRoot("");
  std::vector<Node> nodes;
  nodes.reserve(100);
  for (int32_t i = 0; i < 100; ++i) nodes.push_back(index.Acquire(root, Tokens{i, i + 1}));
  const Node child = index.Acquire(nodes[7], Tokens{1, 2});
  for (int32_t i = 0; i < 100; ++i) EXPECT_EQ(index.Find(root, Tokens{i, i + 1}), nodes[i]);
  EXPECT_EQ(index.Find(nodes[7], Tokens{1, 2}), child);
  EXPECT_EQ(index.Find(nodes[8], Tokens{1, 2}), PrefixIndex::kNoNode);
  EXPECT_EQ(index.Find(root, Tokens{200, 201}), PrefixIndex::kNoNode);
}

TEST(PrefixIndexTest, ForgetsWhatNobodyRefersTo) {
  PrefixIndex index(2);
  const Node root = index.AcquireRoot("tenant");
  const Node a = index.Acquire(root, Tokens{1, 2});
  const Node b = index.Acquire(a, Tokens{3, 4});
  index.AttachBlock(b, 17);
  EXPECT_EQ(index.block(b), 17);
  EXPECT_EQ(index.block(a), PrefixIndex::kNoBlock);
  index.Unref(b);
  index.Unref(a);
  index.Unref(root);
  EXPECT_EQ(index.num_nodes(), 3) << "the block needs its prefix";
  EXPECT_EQ(index.AcquireRoot("tenant"), root);
  index.Unref(root);
  index.DetachBlock(b);
  EXPECT_EQ(index.num_nodes(), 0);
  const Node again = index.AcquireRoot("tenant");
  EXPECT_EQ(index.Find(again, Tokens{1, 2}), PrefixIndex::kNoNode);
}

}  // namespace
}  // namespace moed
