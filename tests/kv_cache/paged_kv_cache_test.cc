#include "kv_cache/paged_kv_cache.h"

#include <gmock/gmock.h>

#include <cstring>

namespace moed {
namespace {

constexpr int32_t kBlockSize = 4, kNumBlocks = 5;

CacheSpec Spec(int32_t heads, int32_t k_dim, int32_t v_dim, bool v_in_k = false, int32_t window = 0) {
  return {.num_kv_heads = heads,
          .k_head_dim = k_dim,
          .v_head_dim = v_dim,
          .v_in_k = v_in_k,
          .window = window,
          .dtype = DType::kF16};
}

PagedKvCache Create(std::vector<CacheSpec> specs) {
  auto cache = PagedKvCache::Create(specs, kBlockSize, kNumBlocks, {});
  EXPECT_TRUE(cache.ok()) << cache.status();
  return std::move(cache).value();
}

TEST(PagedKvCacheTest, LayersOfOneSpecShareAGroup) {
  const PagedKvCache cache = Create({Spec(2, 8, 6), Spec(2, 8, 6, false, 7), Spec(2, 8, 6)});
  ASSERT_EQ(cache.groups().size(), 2u);
  EXPECT_THAT(cache.groups()[0].layers, testing::ElementsAre(0, 2));
  EXPECT_EQ(cache.layer(1).group, 1);
  EXPECT_TRUE(cache.layer(2).k_pages.HasShape({kNumBlocks, 2, kBlockSize, 8}));
  EXPECT_TRUE(cache.layer(2).v_pages.HasShape({kNumBlocks, 2, kBlockSize, 6}));
  EXPECT_EQ(cache.BytesPerBlock(0), 2 * kBlockSize * 2 * (8 + 6) * 2);
}

// A latent and its rotary key: the value is what the key begins with, and takes no memory of its own.
TEST(PagedKvCacheTest, ValuesInsideKeys) {
  const CacheSpec spec = Spec(1, 20, 16, true);
  EXPECT_EQ(spec.bytes_per_position(), 20 * 2);
  const PagedKvCache cache = Create({spec});
  const LayerCache& layer = cache.layer(0);
  EXPECT_EQ(layer.v_pages.data, layer.k_pages.data);
  EXPECT_TRUE(layer.v_pages.HasShape({kNumBlocks, 1, kBlockSize, 16}));
  EXPECT_EQ(layer.v_pages.stride(2), 20);
  EXPECT_EQ(cache.BytesPerBlock(0), kBlockSize * 20 * 2);
}

// In words wherever kernels take them: whole vectors of positions, whole words, values of their own.
TEST(PagedKvCacheTest, LaysKeysInWordsWhereItCan) {
  const auto layout = [](const CacheSpec& spec, int32_t block_size) {
    const auto cache = PagedKvCache::Create(std::vector<CacheSpec>{spec}, block_size, kNumBlocks, {});
    EXPECT_TRUE(cache.ok()) << cache.status();
    return cache->layer(0).key_layout;
  };
  EXPECT_EQ(layout(Spec(2, 8, 6), 16), kernels::KeyLayout::kWords);
  EXPECT_EQ(layout(Spec(2, 8, 6), 48), kernels::KeyLayout::kWords);
  EXPECT_EQ(layout(Spec(2, 8, 6), 8), kernels::KeyLayout::kRows);
  EXPECT_EQ(layout(Spec(2, 7, 6), 16), kernels::KeyLayout::kRows);
  EXPECT_EQ(layout(Spec(1, 20, 16, true), 16), kernels::KeyLayout::kRows);
}

TEST(PagedKvCacheTest, CopiesABlockInAllLayersOfItsGroup) {
  for (const bool v_in_k : {false, true}) {
    PagedKvCache cache = Create({Spec(2, 8, 6, v_in_k), Spec(2, 8, 6, v_in_k)});
    for (int32_t layer : {0, 1}) {
      for (TensorView pages : {cache.layer(layer).k_pages, cache.layer(layer).v_pages}) {
        if (pages.IsContiguous()) std::memset(pages.data, 1, pages.num_bytes());
      }
      std::memset(cache.layer(layer).k_pages.Rows(3, 4).data, 9, cache.layer(layer).k_pages.num_bytes() / kNumBlocks);
    }
    cache.CopyBlock(0, 3, 1);
    for (int32_t layer : {0, 1}) {
      const char* k = cache.layer(layer).k_pages.As<char>();
      const size_t block = cache.layer(layer).k_pages.num_bytes() / kNumBlocks;
      for (size_t i = 0; i < kNumBlocks * block; ++i) ASSERT_EQ(k[i], i / block == 3 || i / block == 1 ? 9 : 1) << i;
    }
  }
}

}  // namespace
}  // namespace moed
