// A block a row. Nothing is sorted: what a sorted row would tell is found by passes over the row, as it lies in the
// second-level cache, that count or weigh entries. Weights are integers in units of 2^-40 of the largest, so that sums
// do not hang on the order of threads. A histogram over the logits tells the narrow bin in which a target lies; the few
// entries of that bin are copied to shared memory and searched there.
//
//   which entry, most likely first, is the one at which the sum passes a target     SelectKey, a search by digits
//   which entry, in the order of the ids, is that                                   SelectIndex
//
// The last entry of top-k is the first of these with every entry counting 1, that of the nucleus and the drawn token
// itself are so with their weights.
#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
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

// Entries of a bin that shared memory has room for; of more, the row is searched again.
constexpr int kListed = 2048;

struct BlockMemory {
  Mass bins[kBins];
  Mass histogram[kBins];
  alignas(16) float list[kListed];  // entries of a bin of the histogram, in no order
  int list_ids[kListed];
  Mass parts[kWarps];  // of a sum or a maximum
  Mass before;         // results of a search
  int found;
  int count;  // of the list
  int num_top;
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
  __device__ __forceinline__ unsigned LowestKey() const { return KeyOf(max - kRange / inverse_temperature); }
  // The bin of the histogram: no lower for a lower value, evenly spread over all that weigh anything, and the last for
  // the rest.
  __device__ __forceinline__ int BinOf(float value) const {
    const float scale = fminf(inverse_temperature * (kBins / kRange), 1e30f);
    const float distance = (max - value) * scale;
    return distance < kBins - 1 ? static_cast<int>(distance) : kBins - 1;
  }

  static constexpr float kRange = 29.0f;  // e^-29 is below 2^-40
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

  // By quads, several of which are loaded before the first is looked at.
  template <typename Body>
  __device__ __forceinline__ void ForEach(const Body& body) const {
    constexpr int kAtOnce = 2;
    const int head = min(size, static_cast<int>((0 - reinterpret_cast<uintptr_t>(values) / 4) % 4));
    const int num_quads = (size - head) / 4;
    if (Thread() < head) body(Thread(), values[Thread()]);
    for (int first = Thread(); first < num_quads; first += kAtOnce * kThreads) {
      float4 quads[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int quad = first + i * kThreads;
        quads[i] = quad < num_quads ? LoadFour(values + head + 4 * quad) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int begin = head + 4 * (first + i * kThreads);
        if (begin + 4 > size) continue;
        body(begin, quads[i].x);
        body(begin + 1, quads[i].y);
        body(begin + 2, quads[i].z);
        body(begin + 3, quads[i].w);
      }
    }
    const int rest = head + 4 * num_quads + Thread();
    if (rest < size) body(rest, values[rest]);
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
  Mass before;     // of all entries with higher keys
  bool is_listed;  // all entries with this key are in the list
};

// Additions of 64 bits would be loops; nearly all of these are a single one of 32.
__device__ __forceinline__ void AddToBin(Mass* bin, Mass mass) {
  auto* words = reinterpret_cast<unsigned*>(bin);
  const auto low = static_cast<unsigned>(mass);
  const unsigned before = atomicAdd(&words[0], low);
  const unsigned high = static_cast<unsigned>(mass >> 32) + (before + low < before ? 1 : 0);
  if (high != 0) atomicAdd(&words[1], high);
}

// The bin at which the sum over the bins passes `target` (which it does): memory->found, and what comes before it.
__device__ void FindBin(const Mass (&bins)[kBins], Mass target, BlockMemory* memory) {
  const Mass first = bins[2 * Thread()];
  const Mass own = first + bins[2 * Thread() + 1];
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
// outside [low, high]. By 11 bits of the keys at a time.
template <typename MassOf>
__device__ Selected SelectByDigits(const Row& row, const MassOf& mass_of, unsigned low, unsigned high, Mass target,
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
      if (mass != 0) AddToBin(&memory->bins[(high - key) >> shift], mass);
    });
    __syncthreads();
    FindBin(memory->bins, target - before, memory);
    const auto bin = static_cast<unsigned>(memory->found);
    before += memory->before;
    if (shift == 0) return {high - bin, before, false};
    high -= bin << shift;
    const unsigned width = (1u << shift) - 1;
    low = high - low > width ? high - width : low;
  }
}

// Fills memory->histogram.
template <typename MassOf>
__device__ void MakeHistogram(const Row& row, const MassOf& mass_of, const Softmax& softmax, BlockMemory* memory) {
  for (int i = Thread(); i < kBins; i += kThreads) memory->histogram[i] = 0;
  __syncthreads();
  row.ForEach([&](int, float value) {
    const Mass mass = mass_of(value);
    if (mass != 0) AddToBin(&memory->histogram[softmax.BinOf(value)], mass);
  });
  __syncthreads();
}

// The same as SelectByDigits, where memory->histogram is made of these masses.
template <typename MassOf>
__device__ Selected SelectKey(const Row& row, const MassOf& mass_of, const Softmax& softmax, unsigned low,
                              unsigned high, Mass target, BlockMemory* memory) {
  FindBin(memory->histogram, target, memory);
  const int bin = memory->found;
  const Mass before = memory->before;
  if (Thread() == 0) memory->count = 0;
  __syncthreads();
  const auto mass_in_bin = [&](float value) -> Mass { return softmax.BinOf(value) == bin ? mass_of(value) : 0; };
  row.ForEach([&](int i, float value) {
    if (mass_in_bin(value) == 0) return;
    const int place = atomicAdd(&memory->count, 1);
    if (place >= kListed) return;
    memory->list[place] = value;
    memory->list_ids[place] = i;
  });
  __syncthreads();
  const bool is_listed = memory->count <= kListed;
  const Row list = {memory->list, memory->count};
  Selected selected = is_listed ? SelectByDigits(list, mass_of, low, high, target - before, memory)
                                : SelectByDigits(row, mass_in_bin, low, high, target - before, memory);
  selected.before += before;
  selected.is_listed = is_listed;
  return selected;
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
#pragma unroll 8
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

// The id of entry `number` among those with the selected key.
__device__ int IdOfEqual(const Row& row, const Selected& selected, Mass number, BlockMemory* memory) {
  const unsigned key = selected.key;
  if (!selected.is_listed) {
    return SelectIndex(
        row.size, [&](int i) -> Mass { return KeyOf(row.values[i]) == key ? 1 : 0; }, number, memory);
  }
  __syncthreads();  // all have read what was found before
  for (int i = Thread(); i < memory->count; i += kThreads) {
    if (KeyOf(memory->list[i]) != key) continue;
    Mass lower = 0;
    for (int j = 0; j < memory->count; ++j) {
      lower += KeyOf(memory->list[j]) == key && memory->list_ids[j] < memory->list_ids[i] ? 1 : 0;
    }
    if (lower == number) memory->found = memory->list_ids[i];
  }
  __syncthreads();
  return memory->found;
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
  const Softmax softmax = {ValueOf(maximum.key), 1.0f};
  const auto one = [](float) -> Mass { return 1; };
  MakeHistogram(row, one, softmax, memory);
  const Selected last =
      SelectKey(row, one, softmax, maximum.least_key, maximum.key, static_cast<Mass>(count) - 1, memory);
  if (Thread() == 0) memory->num_top = 0;
  __syncthreads();
  const auto entry = [](unsigned key, int id) { return static_cast<Mass>(key) << 32 | ~static_cast<unsigned>(id); };
  row.ForEach([&](int i, float value) {
    const unsigned key = KeyOf(value);
    if (key > last.key) memory->top[atomicAdd(&memory->num_top, 1)] = entry(key, i);
  });
  for (int i = static_cast<int>(last.before); i < count; ++i) {
    const int id = IdOfEqual(row, last, static_cast<Mass>(i) - last.before, memory);
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
  MakeHistogram(row, one, softmax, memory);
  const Selected last =
      SelectKey(row, one, softmax, maximum.least_key, maximum.key, static_cast<Mass>(top_k) - 1, memory);
  const Mass equals = static_cast<Mass>(top_k) - last.before;
  const Mass above = row.Sum([&](float value) { return KeyOf(value) > last.key ? softmax.MassOf(value) : 0; }, memory);
  return {last.key, equals, above + equals * softmax.MassOf(ValueOf(last.key))};
}

__device__ Candidates KeepNucleus(const Row& row, const Softmax& softmax, const Maximum& maximum, float top_p,
                                  const Candidates& all, BlockMemory* memory) {
  const double wanted = ceil(static_cast<double>(top_p) * static_cast<double>(all.total));
  const Mass target = wanted < 1.0 ? 0 : min(static_cast<Mass>(wanted), all.total) - 1;
  const auto mass = [&](float value) { return softmax.MassOf(value); };
  const Selected last =
      SelectKey(row, mass, softmax, min(softmax.LowestKey(), maximum.key), maximum.key, target, memory);
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
  const auto mass = [&](float value) { return softmax.MassOf(value); };
  Candidates candidates = {};
  if (cut_k) candidates = KeepTopK(row, softmax, maximum, how.top_k, memory);
  MakeHistogram(row, mass, softmax, memory);
  if (!cut_k)
    candidates.total = BlockSum(memory->histogram[2 * Thread()] + memory->histogram[2 * Thread() + 1], memory);
  if (cut_p) candidates = KeepNucleus(row, softmax, maximum, how.top_p, candidates, memory);
  if (how.min_p > 0.0f) candidates.total = SumOfThoseNotBelow(row, softmax, how.min_p, candidates, memory);
  // In this order what may not be drawn comes last, behind every target.
  const Mass target = DrawnMass(how.uniform, candidates.total);
  const Selected drawn =
      SelectKey(row, mass, softmax, min(softmax.LowestKey(), maximum.key), maximum.key, target, memory);
  const Mass number = (target - drawn.before) / mass(ValueOf(drawn.key));
  return IdOfEqual(row, drawn, number, memory);
}

__device__ __forceinline__ float Adjusted(float logit, const LogitAdjustment& adjustment, float repetition_penalty) {
  logit += adjustment.bias;
  if (adjustment.is_seen) logit = logit > 0.0f ? logit / repetition_penalty : logit * repetition_penalty;
  logit -= adjustment.subtract;
  return adjustment.is_barred ? -INFINITY : logit;
}

// Grid: rows.
__global__ void __launch_bounds__(kThreads) SampleRowsKernel(SampleParameters p) {
  ptx::AwaitEarlierGrids();
  MOED_DYNAMIC_SHARED(BlockMemory, memory);
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
  MOED_LAUNCH_DEPENDENT(SampleRowsKernel, static_cast<unsigned>(num_rows), kThreads, sizeof(BlockMemory), ctx.stream,
                        p);
}

}  // namespace cuda
}  // namespace moed::kernels
