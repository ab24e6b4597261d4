#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/common/reference.h"
#include "kernels/moe_gating/moe_gating.h"

namespace moed::kernels::reference {
namespace {

// Indices of `values` from the largest down; of equals the lower index first, NaN last.
std::vector<int> RankDown(const std::vector<double>& values) {
  std::vector<int> indices(values.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::stable_sort(indices.begin(), indices.end(), [&](int a, int b) {
    if (std::isnan(values[a]) || std::isnan(values[b])) return !std::isnan(values[a]) && std::isnan(values[b]);
    return values[a] > values[b];
  });
  return indices;
}

std::vector<double> Scores(const MoeGatingArgs& args, int64_t token) {
  std::vector<double> scores(args.logits.dim(1));
  for (size_t e = 0; e < scores.size(); ++e) scores[e] = At<float>(args.logits, token, e);
  if (args.scoring == RouterScoring::kSigmoid) {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
    return scores;
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - max);
  for (double& score : scores) score /= sum;
  return scores;
}

// The experts that may be chosen, in the order of choice.
std::vector<int> RankExperts(const MoeGatingArgs& args, int64_t token, const std::vector<double>& scores) {
  const bool biased = !args.correction_bias.empty();
  std::vector<double> keys(scores.size());
  for (size_t e = 0; e < keys.size(); ++e) {
    keys[e] = biased ? scores[e] + At<float>(args.correction_bias, e) : At<float>(args.logits, token, e);
  }
  const size_t group_size = keys.size() / args.num_groups;
  std::vector<double> group_keys(args.num_groups);
  for (int group = 0; group < args.num_groups; ++group) {
    const std::vector<double> members(keys.begin() + group * group_size, keys.begin() + (group + 1) * group_size);
    const std::vector<int> ranks = RankDown(members);
    group_keys[group] = members[ranks[0]];
    if (biased && group_size > 1) group_keys[group] += members[ranks[1]];
  }
  const std::vector<int> groups = RankDown(group_keys);
  std::vector<bool> allowed(args.num_groups, false);
  for (int i = 0; i < args.top_groups; ++i) allowed[groups[i]] = true;

  std::vector<int> ranks = RankDown(keys);
  std::erase_if(ranks, [&](int expert) { return !allowed[expert / group_size]; });
  return ranks;
}

// The weights of the chosen experts, in the order of choice.
std::vector<double> SparseMixerWeights(const MoeGatingArgs& args, int64_t token, const std::vector<int>& ranks) {
  std::vector<double> weights;
  for (int choice = 0; choice < args.top_k; ++choice) {
    const double best = At<float>(args.logits, token, ranks[choice]);
    double sum = 0;
    for (size_t i = choice; i < ranks.size(); ++i) {
      const double logit = At<float>(args.logits, token, ranks[i]);
      const bool is_far = (best - logit) / std::max(std::abs(logit), best) > 2.0 * args.jitter;  // 0 / 0 is not
      if (!is_far) sum += std::exp(logit - best);
    }
    weights.push_back(1 / sum);
  }
  return weights;
}

void SortPairs(const MoeGatingArgs& args) {
  const int64_t num_experts = args.logits.dim(1), num_pairs = args.sorted_pairs.dim(0);
  int32_t next = 0;
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    At<int32_t>(args.expert_offsets, expert) = next;
    for (int64_t pair = 0; pair < num_pairs; ++pair) {
      if (At<int32_t>(args.expert_ids, pair / args.top_k, pair % args.top_k) != expert) continue;
      At<int32_t>(args.sorted_pairs, next++) = static_cast<int32_t>(pair);
    }
  }
  At<int32_t>(args.expert_offsets, num_experts) = next;
}

}  // namespace

void MoeGating(const MoeGatingArgs& args) {
  for (int64_t token = 0; token < args.logits.dim(0); ++token) {
    const std::vector<double> scores = Scores(args, token);
    const std::vector<int> ranks = RankExperts(args, token, scores);
    std::vector<double> chosen(args.top_k);
    for (int choice = 0; choice < args.top_k; ++choice) chosen[choice] = scores[ranks[choice]];
    if (args.scoring == RouterScoring::kSparseMixer) chosen = SparseMixerWeights(args, token, ranks);
    double sum = 0;
    for (double weight : chosen) sum += weight;
    for (int choice = 0; choice < args.top_k; ++choice) {
      double weight = chosen[choice];
      if (args.renormalize) weight /= std::max(sum, 1e-20);
      At<int32_t>(args.expert_ids, token, choice) = ranks[choice];
      At<float>(args.weights, token, choice) = static_cast<float>(weight * args.weight_scale);
    }
  }
  SortPairs(args);
}

}  // namespace moed::kernels::reference
