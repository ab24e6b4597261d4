#include "kernels/common/simd.h"
#include "kernels/moe_gating/moe_gating.h"

namespace moed::kernels::MOED_ISA {
namespace {

// Floats are compared as integers in the same order, so that NaN has a place, and what must not be chosen another
// below.
constexpr int32_t kExcluded = INT32_MIN;
constexpr int32_t kNanKey = INT32_MIN + 1;
// Logits worth a piece of their own to a thread.
constexpr int64_t kPieceLogits = 8192;

MOED_ALWAYS_INLINE VecI32 OrderedKey(VecF32 value) {
  const VecI32 bits = reinterpret_cast<VecI32>(value + 0.0f);  // -0 becomes 0
  const VecI32 key = bits ^ ((bits >> 31) & 0x7fffffff);
  return value == value ? key : SetI32(kNanKey);
}

// The index of the largest key, the lower of equals, of a whole number of vectors.
MOED_ALWAYS_INLINE int32_t IndexOfMax(const int32_t* keys, int64_t padded_size) {
  VecI32 best = SetI32(kExcluded), best_index = SetI32(0), index = Iota();
  for (int64_t i = 0; i < padded_size; i += kLanes, index += kLanes) {
    const VecI32 key = LoadBits<VecI32>(keys + i);
    const VecI32 better = key > best;
    best = better ? key : best;
    best_index = better ? index : best_index;
  }
  const VecI32 is_max = best == ReduceMax(best);
  return -ReduceMax(is_max ? -best_index : SetI32(INT32_MIN));
}

// One token's numbers, each array padded to whole vectors.
struct TokenScratch {
  float* scores;        // [num_experts]: the weights before renormalisation
  int32_t* keys;        // [num_experts]: what the choice goes by
  float* biased;        // [num_experts]: scores + bias, with a correction bias only
  int32_t* group_keys;  // [num_groups]
};

MOED_ALWAYS_INLINE int64_t Padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

MOED_ALWAYS_INLINE VecF32 LoadPadded(const float* values, int64_t i, int64_t size, VecF32 padding) {
  if (i + kLanes <= size) return Load(values + i);
  return Iota() < static_cast<int32_t>(size - i) ? LoadFirst(values + i, size - i) : padding;
}

// softmax(logits), or sigmoid of each.
void Score(const float* logits, int64_t num_experts, RouterScoring scoring, float* scores) {
  if (scoring == RouterScoring::kSigmoid) {
    for (int64_t i = 0; i < num_experts; i += kLanes) {
      Store(scores + i, Sigmoid(LoadPadded(logits, i, num_experts, Set(0))));
    }
    return;
  }
  const VecF32 lowest = Set(-__builtin_huge_valf());
  VecF32 max = lowest;
  for (int64_t i = 0; i < num_experts; i += kLanes) max = Max(max, LoadPadded(logits, i, num_experts, lowest));
  const float row_max = ReduceMax(max);
  VecF32 sum = Set(0);
  for (int64_t i = 0; i < num_experts; i += kLanes) {
    const VecF32 e = Exp(LoadPadded(logits, i, num_experts, lowest) - row_max);
    Store(scores + i, e);
    sum += e;  // the padding gave 0
  }
  const VecF32 total = Set(ReduceSum(sum));
  for (int64_t i = 0; i < num_experts; i += kLanes) Store(scores + i, Load(scores + i) / total);
}

// What the choice goes by, as floats: scores + bias, or else the logits.
const float* ChoiceValues(const MoeGatingArgs& args, const float* logits, const TokenScratch& scratch) {
  if (args.correction_bias.empty()) return logits;
  const int64_t num_experts = args.logits.dim(1);
  const float* const bias = args.correction_bias.As<float>();
  for (int64_t i = 0; i < num_experts; i += kLanes) {
    Store(scratch.biased + i, Load(scratch.scores + i) + LoadPadded(bias, i, num_experts, Set(0)));
  }
  return scratch.biased;
}

// The best of a group, or the sum of its two best; NaN below every number.
float GroupScore(const float* values, int64_t size, bool sum_of_two) {
  const float lowest = -__builtin_huge_valf();
  float best = lowest, second = lowest;
  int64_t numbers = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] != values[i]) continue;
    ++numbers;
    if (values[i] > best) {
      second = best;
      best = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  const int64_t wanted = sum_of_two && size > 1 ? 2 : 1;
  if (numbers < wanted) return __builtin_nanf("");
  return wanted == 2 ? best + second : best;
}

// Excludes the experts of all but the best groups.
void ExcludeGroups(const MoeGatingArgs& args, const float* values, const TokenScratch& scratch) {
  const int64_t num_groups = args.num_groups, padded_groups = Padded(num_groups);
  const int64_t group_size = args.logits.dim(1) / num_groups;
  for (int64_t group = 0; group < padded_groups; ++group) {
    if (group >= num_groups) {
      scratch.group_keys[group] = kExcluded;
      continue;
    }
    const float score = GroupScore(values + group * group_size, group_size, !args.correction_bias.empty());
    scratch.group_keys[group] = OrderedKey(Set(score))[0];
  }
  for (int i = 0; i < args.top_groups; ++i) {
    scratch.group_keys[IndexOfMax(scratch.group_keys, padded_groups)] = kExcluded;
  }
  // What is excluded now was chosen: the others go.
  for (int64_t group = 0; group < num_groups; ++group) {
    if (scratch.group_keys[group] == kExcluded) continue;
    for (int64_t i = 0; i < group_size; ++i) scratch.keys[group * group_size + i] = kExcluded;
  }
}

// The weight of the choice `best` under SparseMixer: experts whose key is excluded were chosen before.
float SparseMixerWeight(const float* logits, const int32_t* keys, int64_t num_experts, int32_t best, float jitter) {
  const VecF32 max = Set(logits[best]);
  VecF32 sum = Set(0);
  for (int64_t i = 0; i < num_experts; i += kLanes) {
    const VecF32 logit = LoadPadded(logits, i, num_experts, Set(0));
    const VecF32 magnitude = logit < 0.0f ? -logit : logit;
    const VecI32 is_far = (max - logit) / Max(magnitude, max) > Set(2.0f * jitter);
    const VecI32 was_chosen = LoadBits<VecI32>(keys + i) == SetI32(kExcluded);
    sum += (is_far | was_chosen) != 0 ? Set(0) : Exp(logit - max);
  }
  return 1.0f / ReduceSum(sum);
}

void ChooseExperts(const MoeGatingArgs& args, int64_t token, const TokenScratch& scratch) {
  const int64_t num_experts = args.logits.dim(1), padded_experts = Padded(num_experts);
  const float* const logits = args.logits.As<float>() + token * args.logits.stride(0);
  Score(logits, num_experts, args.scoring, scratch.scores);
  const float* const values = ChoiceValues(args, logits, scratch);
  for (int64_t i = 0; i < num_experts; i += kLanes) {
    VecI32 key = OrderedKey(LoadPadded(values, i, num_experts, Set(0)));
    if (i + kLanes > num_experts) key = Iota() < static_cast<int32_t>(num_experts - i) ? key : SetI32(kExcluded);
    std::memcpy(scratch.keys + i, &key, sizeof(key));
  }
  if (args.num_groups > 1) ExcludeGroups(args, values, scratch);

  int32_t* const ids = args.expert_ids.As<int32_t>() + token * args.top_k;
  float* const weights = args.weights.As<float>() + token * args.top_k;
  float sum = 0;
  for (int choice = 0; choice < args.top_k; ++choice) {
    const int32_t expert = IndexOfMax(scratch.keys, padded_experts);
    ids[choice] = expert;
    weights[choice] = args.scoring == RouterScoring::kSparseMixer
                          ? SparseMixerWeight(logits, scratch.keys, num_experts, expert, args.jitter)
                          : scratch.scores[expert];
    scratch.keys[expert] = kExcluded;
    sum += weights[choice];
  }
  // Far below every sum but that of scores that are all zero, whose weights stay zero.
  if (args.renormalize && sum < 1e-20f) sum = 1e-20f;
  for (int choice = 0; choice < args.top_k; ++choice) {
    if (args.renormalize) weights[choice] /= sum;
    weights[choice] *= args.weight_scale;
  }
}

// Counting sort of the pairs by expert; stable, so that they stay in order within one.
void SortPairs(const ExecContext& ctx, const MoeGatingArgs& args) {
  const int64_t num_experts = args.logits.dim(1), num_pairs = args.sorted_pairs.dim(0);
  const int32_t* const ids = args.expert_ids.As<int32_t>();
  int32_t* const offsets = args.expert_offsets.As<int32_t>();
  int32_t* const sorted = args.sorted_pairs.As<int32_t>();
  int32_t* const next = static_cast<int32_t*>(ctx.workspace->Allocate(num_experts * sizeof(int32_t)));
  std::memset(next, 0, num_experts * sizeof(int32_t));
  for (int64_t pair = 0; pair < num_pairs; ++pair) ++next[ids[pair]];
  offsets[0] = 0;
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    offsets[expert + 1] = offsets[expert] + next[expert];
    next[expert] = offsets[expert];
  }
  for (int64_t pair = 0; pair < num_pairs; ++pair) sorted[next[ids[pair]]++] = static_cast<int32_t>(pair);
}

}  // namespace

void MoeGating(const ExecContext& ctx, const MoeGatingArgs& args) {
  const int64_t num_experts = args.logits.dim(1);
  const int64_t padded_experts = Padded(num_experts), padded_groups = Padded(args.num_groups);
  const int64_t words = 3 * padded_experts + padded_groups;
  const Workspace::Scope scope(ctx.workspace);
  char* const memory = static_cast<char*>(ctx.workspace->Allocate(ctx.threads->num_threads() * words * 4));

  ctx.threads->ParallelFor(
      args.logits.dim(0), kPieceLogits / num_experts + 1, [&](int64_t begin, int64_t end, int worker) {
        float* const floats = reinterpret_cast<float*>(memory + worker * words * 4);
        int32_t* const keys = reinterpret_cast<int32_t*>(floats + 2 * padded_experts);
        const TokenScratch scratch{
            .scores = floats, .keys = keys, .biased = floats + padded_experts, .group_keys = keys + padded_experts};
        for (int64_t token = begin; token < end; ++token) ChooseExperts(args, token, scratch);
      });
  SortPairs(ctx, args);
}

}  // namespace moed::kernels::MOED_ISA
