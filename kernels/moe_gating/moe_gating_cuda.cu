// A warp chooses a token's experts; one block sorts the pairs, by counting, each warp a run of them. Few tokens are
// chosen for and sorted by a single kernel. No result hangs on the order of threads.
#include <algorithm>
#include <climits>

#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/moe_gating/moe_gating.h"

namespace moed::kernels {
namespace {

constexpr int kWarps = 16;
constexpr int kSortWarps = 16;
// Up to so many tokens one block does all.
constexpr int64_t kMaxTokensOfABlock = 64;
// Shared memory that a block takes at most, if a single warp does not need more.
constexpr size_t kSharedBytes = 48 * 1024;

// Floats are compared as integers in the same order, so that NaN has a place, and what must not be chosen another
// below.
constexpr int kExcluded = INT_MIN;
constexpr int kNanKey = INT_MIN + 1;

struct GatingParameters {
  const float* logits;
  int64_t logits_stride;
  const float* bias;  // or null
  RouterScoring scoring;
  int num_tokens, num_experts, top_k, num_groups, top_groups;
  bool renormalize, sort;
  float weight_scale, jitter;
  int* expert_ids;
  float* weights;
  int* sorted_pairs;
  int* expert_offsets;
};

// What a warp keeps of its token.
struct TokenMemory {
  float* scores;    // [num_experts]: the weights before renormalisation
  int* keys;        // [num_experts]: what the choice goes by
  int* group_keys;  // [num_groups]

  static size_t Bytes(int num_experts, int num_groups) {
    return (2 * static_cast<size_t>(num_experts) + static_cast<size_t>(num_groups)) * sizeof(float);
  }
  __device__ TokenMemory(char* memory, int num_experts) {
    scores = reinterpret_cast<float*>(memory);
    keys = reinterpret_cast<int*>(scores + num_experts);
    group_keys = keys + num_experts;
  }
};

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % 32; }

__device__ __forceinline__ int OrderedKey(float value) {
  if (value != value) return kNanKey;
  const int bits = __float_as_int(value + 0.0f);  // -0 becomes 0
  return bits ^ ((bits >> 31) & INT_MAX);
}

// The index of the largest key, the lower of equals; every lane gets it.
__device__ __forceinline__ int IndexOfMax(const int* keys, int size) {
  int best = kExcluded;
  int best_index = INT_MAX;
  for (int i = Lane(); i < size; i += 32) {
    if (keys[i] > best) {
      best = keys[i];
      best_index = i;
    }
  }
  const int largest = __reduce_max_sync(kAllLanes, best);
  return __reduce_min_sync(kAllLanes, best == largest ? best_index : INT_MAX);
}

// Scores, softmax(logits) or sigmoid of each, and the keys: scores + bias, or else the logits.
__device__ __forceinline__ void Score(const GatingParameters& p, const float* logits, const TokenMemory& memory) {
  float max = 0.0f;
  float sum = 1.0f;
  const bool is_sigmoid = p.scoring == RouterScoring::kSigmoid;
  if (!is_sigmoid) {
    max = -INFINITY;
    for (int i = Lane(); i < p.num_experts; i += 32) max = fmaxf(max, logits[i]);
    max = WarpMax(max);
    sum = 0.0f;
    for (int i = Lane(); i < p.num_experts; i += 32) sum += expf(logits[i] - max);
    sum = WarpSum(sum);
  }
  for (int i = Lane(); i < p.num_experts; i += 32) {
    const float logit = logits[i];
    const float score = is_sigmoid ? 1.0f / (1.0f + expf(-logit)) : expf(logit - max) / sum;
    memory.scores[i] = score;
    memory.keys[i] = OrderedKey(p.bias != nullptr ? score + p.bias[i] : logit);
  }
}

// What a key was made of.
__device__ __forceinline__ float ValueOf(int key) { return __int_as_float(key ^ ((key >> 31) & INT_MAX)); }

// The best of a group, or the sum of its two best where there is a bias; NaN below every number.
__device__ __forceinline__ int GroupKey(const int* keys, int size, bool sum_of_two) {
  int best = kNanKey;
  int second = kNanKey;
  for (int i = 0; i < size; ++i) {
    if (keys[i] > best) {
      second = best;
      best = keys[i];
    } else if (keys[i] > second) {
      second = keys[i];
    }
  }
  if (!sum_of_two || size == 1) return best;
  return second == kNanKey ? kNanKey : OrderedKey(ValueOf(best) + ValueOf(second));
}

// Excludes the experts of all but the best groups.
__device__ __forceinline__ void ExcludeGroups(const GatingParameters& p, const TokenMemory& memory) {
  const int group_size = p.num_experts / p.num_groups;
  for (int group = Lane(); group < p.num_groups; group += 32) {
    memory.group_keys[group] = GroupKey(memory.keys + group * group_size, group_size, p.bias != nullptr);
  }
  __syncwarp();
  for (int i = 0; i < p.top_groups; ++i) {
    const int group = IndexOfMax(memory.group_keys, p.num_groups);
    __syncwarp();
    if (Lane() == 0) memory.group_keys[group] = kExcluded;
    __syncwarp();
  }
  // What is excluded now was chosen: the others go.
  for (int i = Lane(); i < p.num_experts; i += 32) {
    if (memory.group_keys[i / group_size] != kExcluded) memory.keys[i] = kExcluded;
  }
  __syncwarp();
}

// The weight of the choice `best` under SparseMixer: experts whose key is excluded were chosen before.
__device__ __forceinline__ float SparseMixerWeight(const GatingParameters& p, const float* logits, const int* keys,
                                                   int best) {
  const float max = logits[best];
  float sum = 0.0f;
  for (int i = Lane(); i < p.num_experts; i += 32) {
    const float logit = logits[i];
    const bool is_far = (max - logit) / fmaxf(fabsf(logit), max) > 2.0f * p.jitter;
    if (!is_far && keys[i] != kExcluded) sum += expf(logit - max);
  }
  return 1.0f / WarpSum(sum);
}

// A warp's work for one token.
__device__ __forceinline__ void ChooseExperts(const GatingParameters& p, int token, const TokenMemory& memory) {
  const float* logits = p.logits + token * p.logits_stride;
  int* ids = p.expert_ids + static_cast<int64_t>(token) * p.top_k;
  float* weights = p.weights + static_cast<int64_t>(token) * p.top_k;
  Score(p, logits, memory);
  __syncwarp();
  if (p.num_groups > 1) ExcludeGroups(p, memory);
  float sum = 0.0f;
  for (int choice = 0; choice < p.top_k; ++choice) {
    const int expert = IndexOfMax(memory.keys, p.num_experts);
    const float weight = p.scoring == RouterScoring::kSparseMixer ? SparseMixerWeight(p, logits, memory.keys, expert)
                                                                  : memory.scores[expert];
    sum += weight;
    __syncwarp();
    if (Lane() == 0) {
      memory.keys[expert] = kExcluded;
      ids[choice] = expert;
      weights[choice] = weight;
    }
    __syncwarp();
  }
  // Far below every sum but that of scores that are all zero, whose weights stay zero.
  const float divisor = !p.renormalize ? 1.0f : sum < 1e-20f ? 1e-20f : sum;
  for (int choice = Lane(); choice < p.top_k; choice += 32)
    weights[choice] = weights[choice] / divisor * p.weight_scale;
}

// For each of a run of pairs, in order: body(pair, expert, which of the warp's 32 pairs have the same expert); between
// two steps of 32 the warp's counts may be changed.
template <typename Body>
__device__ __forceinline__ void ForEachPair(const int* ids, int begin, int end, const Body& body) {
  for (int first = begin; first < end; first += 32) {
    const int pair = first + Lane();
    const int expert = pair < end ? ids[pair] : -1;
    body(pair, expert, __match_any_sync(kAllLanes, expert));
    __syncwarp();
  }
}

// Turns `totals` into the sums of all before; a warp's work. Returns the sum of all.
__device__ __forceinline__ int ExclusiveSums(int* totals, int size) {
  int before = 0;
  for (int first = 0; first < size; first += 32) {
    const int i = first + Lane();
    const int own = i < size ? totals[i] : 0;
    int sum = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, distance);
      if (Lane() >= distance) sum += other;
    }
    if (i < size) totals[i] = before + sum - own;
    before += __shfl_sync(kAllLanes, sum, 31);
  }
  return before;
}

// Counting sort of the pairs by expert, by all threads of a block; `memory` is [warps + 1][num_experts]. Stable: warps
// have runs of pairs that follow each other, and go through them in order.
__device__ __forceinline__ void SortPairs(const GatingParameters& p, int* memory) {
  const int thread = static_cast<int>(threadIdx.x);
  const int num_threads = static_cast<int>(blockDim.x);
  const int num_warps = num_threads / 32;
  const int warp = thread / 32;
  const int num_pairs = p.num_tokens * p.top_k;
  const int run = CeilDiv(CeilDiv(num_pairs, 32), num_warps) * 32;
  const int begin = min(warp * run, num_pairs);
  const int end = min(begin + run, num_pairs);
  int* starts = memory;                  // [num_experts]
  int* counts = memory + p.num_experts;  // [warps][num_experts]
  int* mine = counts + warp * p.num_experts;
  for (int i = thread; i < num_warps * p.num_experts; i += num_threads) counts[i] = 0;
  __syncthreads();
  ForEachPair(p.expert_ids, begin, end, [&](int, int expert, unsigned same) {
    if (expert >= 0 && __ffs(static_cast<int>(same)) == Lane() + 1) mine[expert] += __popc(same);
  });
  __syncthreads();
  // counts[warp][expert] becomes the number of the expert's pairs in earlier runs.
  for (int expert = thread; expert < p.num_experts; expert += num_threads) {
    int before = 0;
    for (int i = 0; i < num_warps; ++i) {
      const int count = counts[i * p.num_experts + expert];
      counts[i * p.num_experts + expert] = before;
      before += count;
    }
    starts[expert] = before;
  }
  __syncthreads();
  if (warp == 0) {
    const int sum = ExclusiveSums(starts, p.num_experts);
    if (thread == 0) p.expert_offsets[p.num_experts] = sum;
  }
  __syncthreads();
  for (int expert = thread; expert < p.num_experts; expert += num_threads) p.expert_offsets[expert] = starts[expert];
  ForEachPair(p.expert_ids, begin, end, [&](int pair, int expert, unsigned same) {
    const unsigned earlier = same & ((1u << Lane()) - 1);
    if (expert >= 0) p.sorted_pairs[starts[expert] + mine[expert] + __popc(earlier)] = pair;
    __syncwarp();
    if (expert >= 0 && earlier == 0) mine[expert] += __popc(same);
  });
}

__global__ void __launch_bounds__(kWarps * 32, 2) ChooseKernel(GatingParameters p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(char, memory);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int num_warps = static_cast<int>(blockDim.x) / 32;
  const int words = 2 * p.num_experts + p.num_groups;
  const TokenMemory mine(memory + warp * words * static_cast<int>(sizeof(float)), p.num_experts);
  const int step = static_cast<int>(gridDim.x) * num_warps;
  for (int token = static_cast<int>(blockIdx.x) * num_warps + warp; token < p.num_tokens; token += step) {
    ChooseExperts(p, token, mine);
  }
  if (!p.sort) return;
  __syncthreads();
  SortPairs(p, reinterpret_cast<int*>(memory));
}

__global__ void __launch_bounds__(kSortWarps * 32) SortKernel(GatingParameters p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(int, memory);
  SortPairs(p, memory);
}

// As many warps, at most `most`, as the shared memory has room for.
int WarpsFor(size_t bytes_of_a_warp, size_t others, int most) {
  const size_t room = kSharedBytes > others ? (kSharedBytes - others) / bytes_of_a_warp : 0;
  return static_cast<int>(std::clamp<size_t>(room, 1, static_cast<size_t>(most)));
}

GatingParameters ParametersOf(const MoeGatingArgs& args) {
  GatingParameters p = {};
  p.logits = args.logits.As<float>();
  p.logits_stride = args.logits.stride(0);
  p.bias = args.correction_bias.As<float>();
  p.scoring = args.scoring;
  p.num_tokens = static_cast<int>(args.logits.dim(0));
  p.num_experts = static_cast<int>(args.logits.dim(1));
  p.top_k = args.top_k;
  p.num_groups = args.num_groups;
  p.top_groups = args.top_groups;
  p.renormalize = args.renormalize;
  p.weight_scale = args.weight_scale;
  p.jitter = args.jitter;
  p.expert_ids = args.expert_ids.As<int>();
  p.weights = args.weights.As<float>();
  p.sorted_pairs = args.sorted_pairs.As<int>();
  p.expert_offsets = args.expert_offsets.As<int>();
  return p;
}

}  // namespace

namespace cuda {

void MoeGating(const ExecContext& ctx, const MoeGatingArgs& args) {
  GatingParameters p = ParametersOf(args);
  p.sort = p.num_tokens <= kMaxTokensOfABlock;
  const size_t token_bytes = TokenMemory::Bytes(p.num_experts, p.num_groups);
  const size_t count_bytes = static_cast<size_t>(p.num_experts) * sizeof(int);
  const int warps = WarpsFor(token_bytes, 0, kWarps);
  const int blocks = p.sort ? 1 : CeilDiv(p.num_tokens, warps);
  const auto size = static_cast<size_t>(warps);
  const size_t shared_bytes = std::max(size * token_bytes, p.sort ? (size + 1) * count_bytes : 0);
  MOED_LAUNCH_DEPENDENT(ChooseKernel, static_cast<unsigned>(blocks), static_cast<unsigned>(warps * 32), shared_bytes,
                        ctx.stream, p);
  if (p.sort) return;
  const int sort_warps = WarpsFor(count_bytes, count_bytes, kSortWarps);
  MOED_LAUNCH_DEPENDENT(SortKernel, 1, static_cast<unsigned>(sort_warps * 32),
                        static_cast<size_t>(sort_warps + 1) * count_bytes, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
