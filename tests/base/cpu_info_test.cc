#include "base/cpu_info.h"

#include <gtest/gtest.h>

namespace moed {
namespace {

constexpr Isa kAll[] = {Isa::kGeneric,    Isa::kAvx2,       Isa::kAvxVnni, Isa::kAvx512,
                        Isa::kAvx512Vnni, Isa::kAvx512Bf16, Isa::kAmx};

TEST(CpuInfo, NamesAreReadBack) {
  for (const Isa isa : kAll) EXPECT_EQ(ParseIsa(IsaName(isa)), isa) << IsaName(isa);
  EXPECT_EQ(ParseIsa("avx1024"), std::nullopt);
}

// All that is better than the best is out of reach; what it includes is not, except AVX-VNNI, which is no part of
// AVX-512.
TEST(CpuInfo, UsableIsWhatTheBestIncludes) {
  EXPECT_TRUE(IsUsable(BestIsa()));
  EXPECT_TRUE(IsUsable(Isa::kGeneric));
  for (const Isa isa : kAll) {
    if (isa == Isa::kAvxVnni && BestIsa() > isa) continue;
    EXPECT_EQ(IsUsable(isa), isa <= BestIsa()) << IsaName(isa);
  }
}

}  // namespace
}  // namespace moed
