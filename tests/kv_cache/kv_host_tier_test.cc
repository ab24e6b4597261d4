// The host tier's bytes, with the device's memory and streams emulated (tests/support/simt).
#include "kv_cache/kv_host_tier.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "tests/support/simt/runtime.h"

namespace moed {
namespace {

constexpr Device kCuda{DeviceType::kCuda, 0};
constexpr int32_t kNumBlocks = 300;

CacheSpec Spec(DType dtype, bool v_in_k, int32_t window) {
  return {.num_kv_heads = 2, .k_head_dim = 6, .v_head_dim = 4, .v_in_k = v_in_k, .window = window, .dtype = dtype};
}

class KvHostTierTest : public testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(simt::DeviceBytesInUse(), 0u);
    EXPECT_EQ(simt::PinnedBytesInUse(), 0u);
    simt::GetMachine() = simt::Machine();
  }

  // Fills the block with bytes that follow from `seed`, or checks that it holds them.
  static void Fill(const PagedKvCache& cache, int32_t group, int32_t block, uint32_t seed) {
    const simt::DeviceMemoryAccess access;
    for (const std::span<char> piece : cache.Pieces(group, block)) {
      for (char& byte : piece) byte = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
    }
  }
  static bool Holds(const PagedKvCache& cache, int32_t group, int32_t block, uint32_t seed) {
    const simt::DeviceMemoryAccess access;
    for (const std::span<char> piece : cache.Pieces(group, block)) {
      for (const char byte : piece) {
        if (byte != static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24)) return false;
      }
    }
    return true;
  }
};

// Layers of two kinds, one of them with integers and their scales, the other with values that are a part of their keys.
TEST_F(KvHostTierTest, BlocksComeBackAsTheyWere) {
  const std::vector<CacheSpec> specs = {Spec(DType::kI8, false, 0), Spec(DType::kBF16, true, 32),
                                        Spec(DType::kI8, false, 0)};
  auto cache = PagedKvCache::Create(specs, 16, kNumBlocks, kCuda);
  ASSERT_TRUE(cache.ok()) << cache.status();
  ASSERT_EQ(cache->groups().size(), 2u);
  auto tier = KvHostTier::Create(*cache, kNumBlocks + 1, kCuda);
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_EQ(simt::PinnedBytesInUse(),
            (kNumBlocks + 1) * static_cast<size_t>(cache->BytesPerBlock(0) + cache->BytesPerBlock(1)));
  for (int32_t group = 0; group < 2; ++group) {
    for (int32_t block = 0; block < kNumBlocks; ++block) {
      Fill(*cache, group, block, 1000 * group + block);
      tier->Add(group, block, kNumBlocks - block, /*to_host=*/true);
    }
  }
  tier->Start();  // more pieces than go in one call
  ASSERT_TRUE(tier->Wait().ok());
  for (int32_t group = 0; group < 2; ++group) {
    for (int32_t block = 0; block < kNumBlocks; ++block) Fill(*cache, group, block, 7);
  }
  // Some come back to other places, while others go.
  for (int32_t block = 0; block < 100; ++block) {
    tier->Add(0, block + 1, kNumBlocks - block, /*to_host=*/false);
    tier->Add(1, block + 200, kNumBlocks - block, /*to_host=*/false);
    tier->Add(0, block + 150, kNumBlocks - block - 100, /*to_host=*/true);
  }
  tier->Start();
  ASSERT_TRUE(tier->Wait().ok());
  for (int32_t block = 0; block < 100; ++block) {
    EXPECT_TRUE(Holds(*cache, 0, block + 1, block)) << block;
    EXPECT_TRUE(Holds(*cache, 1, block + 200, 1000 + block)) << block;
  }
  EXPECT_TRUE(Holds(*cache, 0, 0, 7));
  EXPECT_TRUE(Holds(*cache, 0, 101, 7));
  EXPECT_TRUE(Holds(*cache, 1, 199, 7));
}

TEST_F(KvHostTierTest, ErrorsAreTold) {
  auto cache = PagedKvCache::Create(std::vector{Spec(DType::kF32, false, 0)}, 16, 4, kCuda);
  ASSERT_TRUE(cache.ok()) << cache.status();
  simt::GetMachine().pinned_until_failure = 0;
  EXPECT_TRUE(absl::IsResourceExhausted(KvHostTier::Create(*cache, 4, kCuda).status()));
  simt::GetMachine().pinned_until_failure = -1;
  simt::GetMachine().has_fault = true;
  EXPECT_TRUE(absl::IsInternal(KvHostTier::Create(*cache, 4, kCuda).status())) << "the first copy shows it";
  simt::GetMachine().has_fault = false;
  auto tier = KvHostTier::Create(*cache, 4, kCuda);
  ASSERT_TRUE(tier.ok()) << tier.status();
  simt::GetMachine().has_fault = true;
  tier->Add(0, 1, 1, /*to_host=*/true);
  tier->Start();
  EXPECT_TRUE(absl::IsInternal(tier->Wait()));
  simt::GetMachine().has_fault = false;
}

}  // namespace
}  // namespace moed
