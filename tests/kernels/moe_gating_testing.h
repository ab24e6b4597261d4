// What tests of the gating share.
#ifndef TESTS_KERNELS_MOE_GATING_TESTING_H_
#define TESTS_KERNELS_MOE_GATING_TESTING_H_

#include <algorithm>
#include <set>
#include <vector>

#include "kernels/moe_gating/moe_gating.h"
#include "tests/support/tensor_testing.h"

namespace moed::kernels::gating_testing {

using test::TestTensor;

// Room for the results of a gating.
struct Results {
  Results(int64_t num_tokens, int64_t num_experts, int64_t top_k)
      : expert_ids({num_tokens, top_k}, DType::kI32),
        weights({num_tokens, top_k}),
        sorted_pairs({num_tokens * top_k}, DType::kI32),
        expert_offsets({num_experts + 1}, DType::kI32) {}

  void AddTo(MoeGatingArgs& args) const {
    args.expert_ids = expert_ids;
    args.weights = weights;
    args.sorted_pairs = sorted_pairs;
    args.expert_offsets = expert_offsets;
  }

  TestTensor expert_ids, weights, sorted_pairs, expert_offsets;
};

// Biases for a choice that rounding cannot change: distinct multiples of 1/64 in random order, such that no two groups
// have the same sum of their two best. (The scores beside them must differ by less than that.)
inline TestTensor DistinctBiases(test::Random& random, int64_t num_experts, int num_groups) {
  TestTensor bias({num_experts});
  float* const values = bias.As<float>();
  for (int64_t e = 0; e < num_experts; ++e) values[e] = static_cast<float>(e - 10) / 64;
  const int64_t group_size = num_experts / num_groups;
  for (;;) {
    std::shuffle(values, values + num_experts, random.engine());
    std::set<float> sums;
    for (int group = 0; group < num_groups; ++group) {
      std::vector<float> members(values + group * group_size, values + (group + 1) * group_size);
      std::sort(members.begin(), members.end(), std::greater<>());
      sums.insert(members[0] + (group_size > 1 ? members[1] : 0));
    }
    if (static_cast<int>(sums.size()) == num_groups) return bias;
  }
}

}  // namespace moed::kernels::gating_testing

#endif  // TESTS_KERNELS_MOE_GATING_TESTING_H_
