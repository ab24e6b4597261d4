// A block a row. Nothing is sorted: what a sorted row would tell is found by passes over the row, as it lies in the
// second-level cache, that count or weigh entries. Weights are integers in units of 2^-40 of the largest, so that sums
// do not hang on the order of threads:
//
//   which entry, most likely first, is the one at which the sum passes a target     SelectKey, a search by digits
//   which entry, in the order of the ids, is that                                   SelectIndex
//
// The last entry of top-k is the first of these with every entry counting 1, that of the nucleus and the drawn token
// itself are so with their weights.
#include "kernels/common/cuda.h"
#include "kernels/sampling/sample_rows.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
static_assert(kBins == 2 * kThreads, "a thread has two bins");

using Mass = unsigned long long;
constexpr double kUnit = 1099511627776.0;  // 2^40

struct SampleParameters {
  float* logits;  // [rows][vocab]
  int vocab;
  const SamplingRow* rows;
  const LogitAdjustment* adjustments;
  float* originals;  // [adjustments of all rows]: the logits that they change
  int* tokens;
  float* token_logprobs;
  int* top_ids;  // [rows][top_stride]
  float* top_logprobs;
  int top_stride;
};

struct BlockMemory {
  Mass bins[kBins];
  Mass parts[kWarps];  // of a sum or a maximum
  Mass before;         // results of a search
  int found;
  int count;
  Mass top[SampleRowsArgs::kMaxTop];
};

__device__ __forceinline__ int Thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int Lane() { return Thread() % 32; }
__device__ __forceinline__ int Warp() { return Thread() / 32; }

// ------------------------------------------------------------------------------------------------- keys and weights

// Unsigned integers in the order of the floats.
__device__ __forceinline__ unsigned KeyOf(float value) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float ValueOf(unsigned key) {
  return __uint_as_float((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

struct Softmax {
  float max, inverse_temperature;

  __device__ __forceinline__ float WeightOf(float value) const { return expf((value - max) * inverse_temperature); }
  __device__ __forceinline__ Mass MassOf(float value) const {
    return static_cast<Mass>(WeightOf(value) * static_cast<float>(kUnit));
  }
  // All that weigh anything have this key or a higher one.
  __device__ __forceinline__ unsigned LowestKey() const {
    constexpr float kLeast = -29.0f;  // e^-29 is below 2^-40
    return KeyOf(max + kLeast / inverse_temperature);
  }
};

// ------------------------------------------------------------------------------------------------------ whole block

// Every thread gets the sum. The block's threads come together before and after.
__device__ Mass BlockSum(Mass value, BlockMemory* memory) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  __syncthreads();
  if (Lane() == 0) memory->parts[Warp()] = value;
  __syncthreads();
  value = memory->parts[Lane()];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ Mass BlockMax(Mass value, BlockMemory* memory) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Mass other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  __syncthreads();
  if (Lane() == 0) memory->parts[Warp()] = value;
  __syncthreads();
  value = memory->parts[Lane()];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Mass other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Sum of the lanes up to the calling one.
__device__ __forceinline__ Mass WarpPrefix(Mass value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const Mass other = __shfl_up_sync(kAllLanes, value, distance);
    if (Lane() >= distance) value += other;
  }
  return value;
}

// A row as the block's threads go through it.
struct Row {
  float* values;
  int size;

  template <typename Body>
  __device__ __forceinline__ void ForEach(const Body& body) const {
#pragma unroll 4
    for (int i = Thread(); i < size; i += kThreads) body(i, values[i]);
  }
  template <typename MassOf>
  __device__ __forceinline__ Mass Sum(const MassOf& mass_of, BlockMemory* memory) const {
    Mass sum = 0;
    ForEach([&](int, float value) { sum += mass_of(value); });
    return BlockSum(sum, memory);
  }
};

struct Maximum {
  unsigned key;
  int id;  // the first of equals
  unsigned least_key;
  bool all_finite;
};

__device__ Maximum MaximumOf(const Row& row, BlockMemory* memory) {
  unsigned largest = 0;
  unsigned least = ~0u;
  int id = 0;
  float probe = 0.0f;  // NaN of infinities and NaN, and a sum keeps it
  row.ForEach([&](int i, float value) {
    const unsigned key = KeyOf(value);
    if (key > largest) {
      largest = key;
      id = i;
    }
    least = min(least, key);
    probe += value * 0.0f;
  });
  const Mass best = BlockMax(static_cast<Mass>(largest) << 32 | ~static_cast<unsigned>(id), memory);
  const Mass inverted = BlockMax(~least, memory);
  return {static_cast<unsigned>(best >> 32), static_cast<int>(~static_cast<unsigned>(best)),
          ~static_cast<unsigned>(inverted), __syncthreads_or(probe == 0.0f ? 0 : 1) == 0};
}

// ----------------------------------------------------------------------------------------------------- two searches

struct Selected {
  unsigned key;
  Mass before;  // of all entries with higher keys
};

// The bin at which the sum over the bins passes `target` (which it does): memory->found, and what comes before it.
__device__ void FindBin(Mass target, BlockMemory* memory) {
  const Mass first = memory->bins[2 * Thread()];
  const Mass own = first + memory->bins[2 * Thread() + 1];
  const Mass in_warp = WarpPrefix(own);
  __syncthreads();
  if (Lane() == 31) memory->parts[Warp()] = in_warp;
  __syncthreads();
  const Mass warps = WarpPrefix(memory->parts[Lane()]);
  const Mass earlier_warps = __shfl_sync(kAllLanes, warps, (Warp() + 31) % 32);
  const Mass before = in_warp - own + (Warp() == 0 ? 0 : earlier_warps);
  if (before <= target && target < before + own) {
    const bool is_second = target >= before + first;
    memory->found = 2 * Thread() + (is_second ? 1 : 0);
    memory->before = before + (is_second ? first : 0);
  }
  __syncthreads();
}

// Of the entries by descending key: the key at which their masses pass `target`, which is less than all of them, none
// outside [low, high].
template <typename MassOf>
__device__ Selected SelectKey(const Row& row, const MassOf& mass_of, unsigned low, unsigned high, Mass target,
                              BlockMemory* memory) {
  Mass before = 0;
  while (true) {
    const unsigned range = high - low;
    const int shift = range < kBins ? 0 : 32 - kBinBits - __clz(static_cast<int>(range));
    memory->bins[2 * Thread()] = memory->bins[2 * Thread() + 1] = 0;
    __syncthreads();
    row.ForEach([&](int, float value) {
      const unsigned key = KeyOf(value);
      if (key < low || key > high) return;
      const Mass mass = mass_of(value);
      if (mass != 0) atomicAdd(&memory->bins[(high - key) >> shift], mass);
    });
    __syncthreads();
    FindBin(target - before, memory);
    const auto bin = static_cast<unsigned>(memory->found);
    before += memory->before;
    if (shift == 0) return {high - bin, before};
    high -= bin << shift;
    const unsigned width = (1u << shift) - 1;
    low = high - low > width ? high - width : low;
  }
}

// Of the entries in their order: the index at which their masses pass `target`, which is less than all of them.
template <typename MassAt>
__device__ int SelectIndex(int size, const MassAt& mass_at, Mass target, BlockMemory* memory) {
  int begin = 0;
  int end = size;
  while (end - begin > 32) {  // each warp has a piece; one of them has the index
    const int piece = CeilDiv(end - begin, kWarps);
    const int piece_begin = begin + Warp() * piece;
    const int piece_end = min(piece_begin + piece, end);
    Mass sum = 0;
#pragma unroll 4
    for (int i = piece_begin + Lane(); i < piece_end; i += 32) sum += mass_at(i);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
    __syncthreads();
    if (Lane() == 0) memory->parts[Warp()] = sum;
    __syncthreads();
    const Mass own = memory->parts[Lane()];
    const Mass reached = WarpPrefix(own);
    const unsigned passed = __ballot_sync(kAllLanes, reached > target ? 1 : 0);
    const int owner = __ffs(static_cast<int>(passed)) - 1;
    target -= __shfl_sync(kAllLanes, reached - own, owner);
    begin += owner * piece;
    end = min(begin + piece, end);
  }
  const Mass reached = WarpPrefix(begin + Lane() < end ? mass_at(begin + Lane()) : 0);
  const unsigned passed = __ballot_sync(kAllLanes, reached > target ? 1 : 0);
  return begin + __ffs(static_cast<int>(passed)) - 1;
}

// The id of entry `number` among those that equal `key`.
__device__ int IdOfEqual(const Row& row, unsigned key, Mass number, BlockMemory* memory) {
  return SelectIndex(
      row.size, [&](int i) -> Mass { return KeyOf(row.values[i]) == key ? 1 : 0; }, number, memory);
}

// --------------------------------------------------------------------------------------------------- log-probabilities

// What the model itself says: the logarithm of the sum over the row, and the best `count` entries.
__device__ double LogSum(const Row& row, float max, BlockMemory* memory) {
  const Softmax softmax = {max, 1.0f};
  const Mass sum = row.Sum([&](float value) { return softmax.MassOf(value); }, memory);
  return max + log(static_cast<double>(sum) / kUnit);
}

__device__ void StoreBest(const Row& row, const Maximum& maximum, double log_sum, int count, int* ids, float* logprobs,
                          BlockMemory* memory) {
  const auto one = [](float) -> Mass { return 1; };
  const Selected last = SelectKey(row, one, maximum.least_key, maximum.key, static_cast<Mass>(count) - 1, memory);
  if (Thread() == 0) memory->count = 0;
  __syncthreads();
  const auto entry = [](unsigned key, int id) { return static_cast<Mass>(key) << 32 | ~static_cast<unsigned>(id); };
  row.ForEach([&](int i, float value) {
    const unsigned key = KeyOf(value);
    if (key > last.key) memory->top[atomicAdd(&memory->count, 1)] = entry(key, i);
  });
  for (int i = static_cast<int>(last.before); i < count; ++i) {
    const int id = IdOfEqual(row, last.key, static_cast<Mass>(i) - last.before, memory);
    if (Thread() == 0) memory->top[i] = entry(last.key, id);
  }
  __syncthreads();
  if (Thread() < count) {
    const Mass own = memory->top[Thread()];
    int rank = 0;
    for (int i = 0; i < count; ++i) rank += memory->top[i] > own ? 1 : 0;
    ids[rank] = static_cast<int>(~static_cast<unsigned>(own));
    logprobs[rank] = static_cast<float>(ValueOf(static_cast<unsigned>(own >> 32)) - log_sum);
  }
}

// ------------------------------------------------------------------------------------------------------------- choice

// The entries that may be drawn: all with higher keys than `key`, and the first `equals` of those that equal it.
struct Candidates {
  unsigned key;
  Mass equals;
  Mass total;  // what they weigh
};

__device__ Mass DrawnMass(double part, Mass total) {
  const auto target = static_cast<Mass>(part * static_cast<double>(total));
  return target < total ? target : total - 1;
}

__device__ Candidates KeepTopK(const Row& row, const Softmax& softmax, const Maximum& maximum, int top_k,
                               BlockMemory* memory) {
  const auto one = [](float) -> Mass { return 1; };
  const Selected last = SelectKey(row, one, maximum.least_key, maximum.key, static_cast<Mass>(top_k) - 1, memory);
  const Mass equals = static_cast<Mass>(top_k) - last.before;
  const Mass above = row.Sum([&](float value) { return KeyOf(value) > last.key ? softmax.MassOf(value) : 0; }, memory);
  return {last.key, equals, above + equals * softmax.MassOf(ValueOf(last.key))};
}

__device__ Candidates KeepNucleus(const Row& row, const Softmax& softmax, const Maximum& maximum, float top_p,
                                  const Candidates& all, BlockMemory* memory) {
  const double wanted = ceil(static_cast<double>(top_p) * static_cast<double>(all.total));
  const Mass target = wanted < 1.0 ? 0 : min(static_cast<Mass>(wanted), all.total) - 1;
  const auto mass = [&](float value) { return softmax.MassOf(value); };
  const Selected last = SelectKey(row, mass, min(softmax.LowestKey(), maximum.key), maximum.key, target, memory);
  const Mass one = mass(ValueOf(last.key));
  const Mass equals = (target - last.before) / one + 1;
  return {last.key, equals, last.before + equals * one};
}

__device__ Mass SumOfThoseNotBelow(const Row& row, const Softmax& softmax, float min_p, const Candidates& candidates,
                                   BlockMemory* memory) {
  const auto mass = [&](float value) -> Mass { return softmax.WeightOf(value) >= min_p ? softmax.MassOf(value) : 0; };
  const Mass above = row.Sum([&](float value) { return KeyOf(value) > candidates.key ? mass(value) : 0; }, memory);
  return above + candidates.equals * mass(ValueOf(candidates.key));
}

__device__ int ChooseToken(const Row& row, const Maximum& maximum, const SamplingRow& how, BlockMemory* memory) {
  const float max = ValueOf(maximum.key);
  if (how.temperature == 0.0f || max == -INFINITY) return maximum.id;
  constexpr float kLargestFloat = 3.4028234663852886e38f;
  const Softmax softmax = {max, fminf(1.0f / how.temperature, kLargestFloat)};
  const bool cut_k = how.top_k > 0 && how.top_k < row.size;
  const bool cut_p = how.top_p < 1.0f;
  if (!cut_k && !cut_p) {
    const auto mass = [&](float value) -> Mass {
      return softmax.WeightOf(value) >= how.min_p ? softmax.MassOf(value) : 0;
    };
    const Mass total = row.Sum(mass, memory);
    return SelectIndex(
        row.size, [&](int i) { return mass(row.values[i]); }, DrawnMass(how.uniform, total), memory);
  }
  Candidates candidates;
  if (cut_k) {
    candidates = KeepTopK(row, softmax, maximum, how.top_k, memory);
  } else {
    candidates = {0, 0, row.Sum([&](float value) { return softmax.MassOf(value); }, memory)};
  }
  if (cut_p) candidates = KeepNucleus(row, softmax, maximum, how.top_p, candidates, memory);
  if (how.min_p > 0.0f) candidates.total = SumOfThoseNotBelow(row, softmax, how.min_p, candidates, memory);
  // In this order what may not be drawn comes last, behind every target.
  const Mass target = DrawnMass(how.uniform, candidates.total);
  const auto mass = [&](float value) { return softmax.MassOf(value); };
  const Selected drawn = SelectKey(row, mass, min(softmax.LowestKey(), maximum.key), maximum.key, target, memory);
  const Mass number = (target - drawn.before) / mass(ValueOf(drawn.key));
  return IdOfEqual(row, drawn.key, number, memory);
}

__device__ __forceinline__ float Adjusted(float logit, const LogitAdjustment& adjustment, float repetition_penalty) {
  logit += adjustment.bias;
  if (adjustment.is_seen) logit = logit > 0.0f ? logit / repetition_penalty : logit * repetition_penalty;
  logit -= adjustment.subtract;
  return adjustment.is_barred ? -INFINITY : logit;
}

// Grid: rows.
__global__ void __launch_bounds__(kThreads) SampleRowsKernel(SampleParameters p) {
  MOED_SHARED(BlockMemory, memory, [1]);
  const int r = static_cast<int>(blockIdx.x);
  const SamplingRow how = p.rows[r];
  const Row row = {p.logits + static_cast<int64_t>(r) * p.vocab, p.vocab};
  Maximum maximum = MaximumOf(row, memory);
  if (!maximum.all_finite) {
    if (Thread() == 0) p.tokens[r] = SampleRowsArgs::kNotFinite;
    return;
  }
  double log_sum = 0.0;
  if (how.logprobs >= 0) {
    log_sum = LogSum(row, ValueOf(maximum.key), memory);
    const int count = min(how.logprobs, p.vocab);
    const int64_t first = static_cast<int64_t>(r) * p.top_stride;
    if (count > 0) StoreBest(row, maximum, log_sum, count, p.top_ids + first, p.top_logprobs + first, memory);
  }
  const LogitAdjustment* adjustments = p.adjustments + how.first_adjustment;
  float* originals = p.originals + how.first_adjustment;
  __syncthreads();  // all have read the row
  for (int i = Thread(); i < how.num_adjustments; i += kThreads) {
    float* logit = row.values + adjustments[i].id;
    originals[i] = *logit;
    *logit = Adjusted(*logit, adjustments[i], how.repetition_penalty);
  }
  __syncthreads();
  if (how.num_adjustments > 0) maximum = MaximumOf(row, memory);
  const int token = ChooseToken(row, maximum, how, memory);
  if (Thread() == 0) p.tokens[r] = token;
  if (how.logprobs < 0) return;
  if (Thread() == 0) memory->count = -1;
  __syncthreads();
  for (int i = Thread(); i < how.num_adjustments; i += kThreads) {
    if (adjustments[i].id == token) memory->count = i;
  }
  __syncthreads();
  if (Thread() == 0) {
    const float own = memory->count < 0 ? row.values[token] : originals[memory->count];
    p.token_logprobs[r] = static_cast<float>(own - log_sum);
  }
}

}  // namespace

namespace cuda {

void SampleRows(const ExecContext& ctx, const SampleRowsArgs& args) {
  const int64_t num_rows = args.logits.dim(0);
  if (num_rows == 0) return;
  const Workspace::Scope scope(ctx.workspace);
  SampleParameters p = {};
  p.logits = args.logits.As<float>();
  p.vocab = static_cast<int>(args.logits.dim(1));
  p.rows = args.rows;
  p.adjustments = args.adjustments;
  p.originals = ctx.workspace->Tensor({args.num_adjustments}).As<float>();
  p.tokens = args.tokens.As<int>();
  p.token_logprobs = args.token_logprobs.As<float>();
  p.top_ids = args.top_ids.As<int>();
  p.top_logprobs = args.top_logprobs.As<float>();
  p.top_stride = static_cast<int>(args.top_ids.dim(1));
  MOED_LAUNCH(SampleRowsKernel, static_cast<unsigned>(num_rows), kThreads, 0, ctx.stream, p);
}

}  // namespace cuda
}  // namespace moed::kernels
