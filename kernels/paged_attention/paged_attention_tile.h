// The arithmetic of one tile of positions: bringing keys and values in, scores, online softmax, weighted sum of values.
//
// Every score and every element of a result is one chain of multiply-adds in a fixed order (over head_dim, then over
// positions); paged_attention_integers.h has the same of whole numbers. How many rows a micro-kernel takes at a time
// changes who shares a load, and no bit of the result.
#ifndef KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_TILE_H_
#define KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_TILE_H_

#include <type_traits>

#include "kernels/common/simd.h"
#include "kernels/paged_attention/paged_attention_plan.h"

namespace moed::kernels::MOED_ISA {

// Register tile of the micro-kernels: kTileRows x kTileVecs accumulators, the rest for loads.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;
#else
constexpr int kTileRows = 4;
constexpr int kTileVecs = 2;
#endif
static_assert(kTilePositions % (kTileVecs * kLanes) == 0);

constexpr float kMinusInfinity = -__builtin_inff();

// Positions [begin, end) of a tile, counted from its start.
struct TileRange {
  int begin, end;
};

// ------------------------------------------------------------------------------------------------ keys and values

template <int... I>
struct Lanes {};
#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

// a0 b0 a1 b1 … of the lower (Half = 0) or upper (Half = 1) halves.
template <int Half, int... I>
MOED_ALWAYS_INLINE VecF32 Interleave(VecF32 a, VecF32 b, Lanes<I...>) {
  return __builtin_shufflevector(a, b, (Half * kLanes / 2 + I / 2 + (I % 2) * kLanes)...);
}

// A square of kLanes x kLanes turned over by log2(kLanes) perfect shuffles.
MOED_ALWAYS_INLINE void Transpose(VecF32 (&rows)[kLanes]) {
  for (int step = 1; step < kLanes; step *= 2) {
    VecF32 shuffled[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      shuffled[2 * i] = Interleave<0>(rows[i], rows[i + kLanes / 2], AllLanes());
      shuffled[2 * i + 1] = Interleave<1>(rows[i], rows[i + kLanes / 2], AllLanes());
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = shuffled[i];
  }
}

// Where the rows of a tile lie, and what they are multiplied by where they are integers.
template <typename T>
struct CacheRows {
  const T* rows[kTilePositions];

  // Positions [i, end) are the rows from first_row on, counted through all pages.
  MOED_ALWAYS_INLINE void Set(int i, int end, const TensorView& pages, const TensorView& /*scales*/,
                              int64_t first_row) {
    const int64_t stride = pages.stride(2);
    const T* row = pages.As<T>() + first_row * stride;
    for (; i < end; ++i, row += stride) rows[i] = row;
  }
  MOED_ALWAYS_INLINE void Copy(int from, int to) { rows[to] = rows[from]; }
  // Elements of one position; an element of kLanes positions from `position` on.
  MOED_ALWAYS_INLINE VecF32 Scaled(int /*position*/, VecF32 value) const { return value; }
  MOED_ALWAYS_INLINE VecF32 ScaledColumn(int /*position*/, VecF32 value) const { return value; }
};
template <>
struct CacheRows<int8_t> {
  const int8_t* rows[kTilePositions];
  float scales[kTilePositions];

  MOED_ALWAYS_INLINE void Set(int i, int end, const TensorView& pages, const TensorView& page_scales,
                              int64_t first_row) {
    const int64_t stride = pages.stride(2);
    const int8_t* row = pages.As<int8_t>() + first_row * stride;
    const float* scale = page_scales.As<float>() + first_row;
    for (; i < end; ++i, row += stride) {
      rows[i] = row;
      scales[i] = *scale++;
    }
  }
  MOED_ALWAYS_INLINE void Copy(int from, int to) {
    rows[to] = rows[from];
    scales[to] = scales[from];
  }
  MOED_ALWAYS_INLINE VecF32 Scaled(int position, VecF32 value) const { return value * scales[position]; }
  MOED_ALWAYS_INLINE VecF32 ScaledColumn(int position, VecF32 value) const { return value * Load(scales + position); }
};

// Asks for a tile's rows, a cache line at a time and each once, so that the requests can lie between the arithmetic of
// the tile before: a core has room for a dozen of them, and one that finds none waits.
template <typename T>
class RowPrefetch {
 public:
  RowPrefetch() = default;
  RowPrefetch(const T* const* rows, TileRange range, int64_t row_elements)
      : row_(rows + range.begin), end_(rows + range.end), row_bytes_(row_elements * static_cast<int64_t>(sizeof(T))) {}

  // Asks for as many lines as kElements elements take, one at least.
  template <int kElements>
  MOED_ALWAYS_INLINE void NextOf() {
    constexpr int kLines = kElements * static_cast<int>(sizeof(T)) / kLineBytes;
#pragma GCC unroll 4
    for (int i = 0; i < (kLines < 1 ? 1 : kLines); ++i) Next();
  }

 private:
  static constexpr int kLineBytes = 64;

  MOED_ALWAYS_INLINE void Next() {
    if (row_ == end_) return;
    PrefetchL2(reinterpret_cast<const char*>(*row_) + offset_);
    offset_ += kLineBytes;
    if (offset_ >= row_bytes_) {
      offset_ = 0;
      ++row_;
    }
  }

  const T* const* row_ = nullptr;
  const T* const* end_ = nullptr;
  int64_t row_bytes_ = 0;
  int64_t offset_ = 0;
};

// Elements of a row that lie in 32 bits, where these can be taken apart without leaving their lane; else 1.
template <typename T>
constexpr int kPackedElements = 1;
template <>
constexpr int kPackedElements<BFloat16> = 2;
template <>
constexpr int kPackedElements<int8_t> = 4;

// Element `i` of each lane's 32 bits as a float.
template <typename T>
MOED_ALWAYS_INLINE VecF32 Unpack(VecF32 lanes, int i) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const VecU32 bits = reinterpret_cast<VecU32>(lanes);
    return reinterpret_cast<VecF32>(i == 0 ? bits << 16 : bits & 0xffff0000u);
  } else {
    return __builtin_convertvector((reinterpret_cast<VecI32>(lanes) << (24 - 8 * i)) >> 24, VecF32);
  }
}

// Where the keys of a tile lie, in words.
template <typename T>
struct CacheWords {
  static constexpr int kGroups = kTilePositions / kLanes;
  static constexpr int kElements = 4 / static_cast<int>(sizeof(T));
  const char* groups[kGroups];  // word 0 of as many neighbouring positions as a vector has lanes
  const float* scales[kGroups];
  int64_t stride;  // bytes from a word to the next

  // Group g: positions from `offset` on in the block and head whose first row is first_row, counted through all pages.
  MOED_ALWAYS_INLINE void Set(int g, const TensorView& pages, const TensorView& page_scales, int64_t first_row,
                              int64_t offset) {
    groups[g] = pages.As<char>() + first_row * pages.dim(3) * static_cast<int64_t>(sizeof(T)) + offset * 4;
    stride = pages.dim(2) * 4;
    scales[g] = std::is_same_v<T, int8_t> ? page_scales.As<float>() + first_row + offset : nullptr;
  }
  MOED_ALWAYS_INLINE void Copy(int from, int to) {
    groups[to] = groups[from];
    scales[to] = scales[from];
  }
  // Element e of word `word` of a group's positions, before the scale.
  MOED_ALWAYS_INLINE VecF32 At(int g, int64_t word, int e) const {
    const VecF32 lanes = LoadBits<VecF32>(groups[g] + word * stride);
    if constexpr (std::is_same_v<T, float>) return lanes;
    if constexpr (std::is_same_v<T, Half>) {
      const VecU32 bits = reinterpret_cast<VecU32>(lanes);
      return HalfToFloat(NarrowTo16(e == 0 ? bits : bits >> 16));
    }
    if constexpr (kPackedElements<T> != 1) return Unpack<T>(lanes, e);
  }
  // Positions that share a cache line make one request.
  MOED_ALWAYS_INLINE void Prefetch(int g, int64_t word) const {
    if (g % (16 / kLanes) == 0) PrefetchL2(groups[g] + word * stride);
  }
};

// Keys of one tile: words to keys[d][position], in float, before the scale. Positions outside `range` get any numbers.
// Meanwhile those of `next` are asked for, if there are any.
template <typename T>
void PackWords(const CacheWords<T>& from, TileRange range, int64_t head_dim, const CacheWords<T>* next, float* keys) {
  constexpr int kElements = CacheWords<T>::kElements;
  for (int g = range.begin / kLanes; g * kLanes < range.end; ++g) {
    for (int64_t word = 0; word * kElements < head_dim; ++word) {
      if (next != nullptr) next->Prefetch(g, word);
#pragma GCC unroll 4
      for (int e = 0; e < kElements; ++e) {
        Store(keys + (word * kElements + e) * kTilePositions + g * kLanes, from.At(g, word, e));
      }
    }
  }
}

// A square of rows[position .. + kLanes][d .. + kLanes * kPackedElements] on its way into `keys`: one turn takes all
// elements that share 32 bits.
template <typename T>
MOED_ALWAYS_INLINE void PackKeySquare(const CacheRows<T>& from, int position, int64_t d, float* keys) {
  constexpr int kElements = kPackedElements<T>;
  VecF32 square[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    if constexpr (kElements == 1) {
      square[i] = Load(from.rows[position + i] + d);
    } else {
      square[i] = LoadBits<VecF32>(from.rows[position + i] + d);
    }
  }
  Transpose(square);
  for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 4
    for (int e = 0; e < kElements; ++e) {
      VecF32 key = square[i];
      if constexpr (kElements > 1) key = Unpack<T>(key, e);
      Store(keys + (d + i * kElements + e) * kTilePositions + position, from.ScaledColumn(position, key));
    }
  }
}

// Keys of one tile: rows[position] to keys[d][position], in float. Positions outside `range` get any numbers.
template <typename T>
void PackKeys(const CacheRows<T>& from, TileRange range, int64_t head_dim, float* keys) {
  const T* const* const rows = from.rows;
  constexpr int64_t kSquare = kLanes * kPackedElements<T>;
  for (int position = range.begin / kLanes * kLanes; position < range.end; position += kLanes) {
    int64_t d = 0;
    for (; d + kSquare <= head_dim; d += kSquare) PackKeySquare(from, position, d, keys);
    for (; d < head_dim; d += kLanes) {
      const int64_t n = head_dim - d < kLanes ? head_dim - d : kLanes;
      VecF32 square[kLanes];
      for (int i = 0; i < kLanes; ++i) square[i] = LoadFirst(rows[position + i] + d, n);
      Transpose(square);
      for (int i = 0; i < n; ++i) {
        Store(keys + (d + i) * kTilePositions + position, from.ScaledColumn(position, square[i]));
      }
    }
  }
}

// Values of one tile: rows[position] to values[position][padded_dim], in float, with zeros after head_dim. Meanwhile
// those of `next` are asked for.
template <typename T>
void PackValues(const CacheRows<T>& from, TileRange range, int64_t head_dim, int64_t padded_dim, RowPrefetch<T>* next,
                float* values) {
  for (int position = range.begin; position < range.end; ++position) {
    const T* row = from.rows[position];
    float* out = values + position * padded_dim;
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) {
      next->template NextOf<kLanes>();
      Store(out + d, from.Scaled(position, Load(row + d)));
    }
    if (d < head_dim) Store(out + d, from.Scaled(position, LoadFirst(row + d, head_dim - d)));
  }
}

// ---------------------------------------------------------------------------------------------------------- scores

// Where Scores() finds the keys of a tile: packed, or in the cache itself, which is quicker for a few rows.
template <typename T>
struct PackedKeys {
  static constexpr int kElements = 1;
  const float* keys;            // [head_dim, kTilePositions]
  RowPrefetch<T> next;          // what is asked for meanwhile
  const CacheWords<T>* scales;  // of integers, where the keys are not scaled yet

  MOED_ALWAYS_INLINE VecF32 At(int g, int64_t word, int /*e*/) const {
    return Load(keys + word * kTilePositions + g * kLanes);
  }
  MOED_ALWAYS_INLINE void PrefetchNext(int /*first_group*/, int64_t /*word*/) {
    next.template NextOf<kTilePositions>();
  }
  MOED_ALWAYS_INLINE VecF32 Scaled(int g, VecF32 score) const {
    return std::is_same_v<T, int8_t> && scales != nullptr ? score * Load(scales->scales[g]) : score;
  }
};
template <typename T>
struct CachedKeys {
  static constexpr int kElements = CacheWords<T>::kElements;
  const CacheWords<T>& words;
  const CacheWords<T>* next;  // what is asked for meanwhile, if anything

  MOED_ALWAYS_INLINE VecF32 At(int g, int64_t word, int e) const { return words.At(g, word, e); }
  MOED_ALWAYS_INLINE void PrefetchNext(int first_group, int64_t word) const {
    if (next == nullptr) return;
#pragma GCC unroll 4
    for (int j = 0; j < kTileVecs; ++j) next->Prefetch(first_group + j, word);
  }
  MOED_ALWAYS_INLINE VecF32 Scaled(int g, VecF32 score) const {
    return std::is_same_v<T, int8_t> ? score * Load(words.scales[g]) : score;
  }
};

// scores[r][position] = sum over d of q[r][d] * key[position][d], for R rows and the vectors that `range` touches.
template <int R, typename Keys>
void Scores(const float* q, Keys keys, int64_t head_dim, TileRange range, float* scores) {
  constexpr int kWidth = kTileVecs * kLanes;
  for (int position = range.begin / kWidth * kWidth; position < range.end; position += kWidth) {
    VecF32 sums[R][kTileVecs] = {};
    const int first_group = position / kLanes;
    for (int64_t word = 0; word * Keys::kElements < head_dim; ++word) {
      keys.PrefetchNext(first_group, word);
#pragma GCC unroll 4
      for (int e = 0; e < Keys::kElements; ++e) {
        VecF32 key_vecs[kTileVecs];
        for (int j = 0; j < kTileVecs; ++j) key_vecs[j] = keys.At(first_group + j, word, e);
        for (int r = 0; r < R; ++r) {
          const VecF32 query = Set(q[r * head_dim + word * Keys::kElements + e]);
          for (int j = 0; j < kTileVecs; ++j) sums[r][j] = MulAdd(query, key_vecs[j], sums[r][j]);
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int j = 0; j < kTileVecs; ++j) {
        Store(scores + r * kTilePositions + position + j * kLanes, keys.Scaled(first_group + j, sums[r][j]));
      }
    }
  }
}

// --------------------------------------------------------------------------------------------------------- softmax

MOED_ALWAYS_INLINE float ScalarExp(float x) { return Exp(Set(x))[0]; }

// Which lanes of vector v of a tile lie in `range`.
MOED_ALWAYS_INLINE VecI32 Visible(int v, TileRange range) {
  const VecI32 position = Iota() + v * kLanes;
  return (position >= range.begin) & (position < range.end);
}

// The largest of a row's scores in `range`; scores outside become minus infinity.
MOED_ALWAYS_INLINE float LargestScore(float* scores, TileRange range) {
  constexpr int kVecs = kTilePositions / kLanes;
  VecF32 largest = Set(kMinusInfinity);
  if (range.begin <= 0 && range.end >= kTilePositions) {
    for (int v = 0; v < kVecs; ++v) largest = Max(Load(scores + v * kLanes), largest);
  } else {
    for (int v = 0; v < kVecs; ++v) {
      const VecF32 value = Visible(v, range) ? Load(scores + v * kLanes) : Set(kMinusInfinity);
      Store(scores + v * kLanes, value);
      largest = Max(value, largest);
    }
  }
  return ReduceMax(largest);
}

// Scores become weights relative to `max`, nothing outside `range`; returns the weights' sum.
MOED_ALWAYS_INLINE float ScoresToWeights(float* scores, TileRange range, float max) {
  constexpr int kVecs = kTilePositions / kLanes;
  VecF32 total = {};
  if (range.begin <= 0 && range.end >= kTilePositions) {
    for (int v = 0; v < kVecs; ++v) {
      const VecF32 weight = Exp(Load(scores + v * kLanes) - max);
      Store(scores + v * kLanes, weight);
      total += weight;
    }
  } else {
    for (int v = 0; v < kVecs; ++v) {
      const VecF32 weight = Visible(v, range) ? Exp(Load(scores + v * kLanes) - max) : VecF32{};
      Store(scores + v * kLanes, weight);
      total += weight;
    }
  }
  return ReduceSum(total);
}

// One step of the online softmax for R rows, of which row r sees ranges[r] of the tile: scores become weights relative
// to the new maximum, and what was summed before is rescaled to it. Each stage takes all rows, since one row alone
// would wait for each of its operations.
template <int R>
[[gnu::noinline]] void SoftmaxStep(float* scores, const TileRange* ranges, int64_t padded_dim, float* max, float* sum,
                                   float* acc) {
  static_assert(R <= kTileRows);
  constexpr int kRowVecs = (R + kLanes - 1) / kLanes;
  float new_max[R], shifts[kRowVecs * kLanes] = {};
  for (int r = 0; r < R; ++r) {
    const float tile_max = LargestScore(scores + r * kTilePositions, ranges[r]);
    new_max[r] = tile_max > max[r] ? tile_max : max[r];
    shifts[r] = max[r] - new_max[r];
  }
  float totals[R];
  for (int r = 0; r < R; ++r) totals[r] = ScoresToWeights(scores + r * kTilePositions, ranges[r], new_max[r]);
  for (int v = 0; v < kRowVecs; ++v) Store(shifts + v * kLanes, Exp(Load(shifts + v * kLanes)));
  for (int r = 0; r < R; ++r) {
    if (max[r] != new_max[r] && max[r] != kMinusInfinity) {
      const float rescale = shifts[r];
      sum[r] *= rescale;
      float* const row = acc + r * padded_dim;
      for (int64_t d = 0; d < padded_dim; d += kLanes) Store(row + d, Load(row + d) * rescale);
    }
    sum[r] += totals[r];
    max[r] = new_max[r];
  }
}

// ---------------------------------------------------------------------------------------------------------- values

// Where AddValues finds the values of a tile: packed, or in the cache itself, which is quicker for a few rows.
struct PackedValues {
  const float* values;  // [kTilePositions, padded_dim]
  int64_t padded_dim;
  MOED_ALWAYS_INLINE VecF32 At(int position, int64_t d) const { return Load(values + position * padded_dim + d); }
  template <int kElements>
  MOED_ALWAYS_INLINE void PrefetchNext() const {}
};
template <typename T>
struct CachedValues {
  const CacheRows<T>& rows;  // of whole vectors
  RowPrefetch<T>* next;      // what is asked for meanwhile
  template <int kElements>
  MOED_ALWAYS_INLINE void PrefetchNext() const {
    next->template NextOf<kElements>();
  }
  MOED_ALWAYS_INLINE VecF32 At(int position, int64_t d) const {
    return rows.Scaled(position, Load(rows.rows[position] + d));
  }
};

template <int R, int V, typename Values>
MOED_ALWAYS_INLINE void AddValuesVecs(const float* weights, const Values& values, int64_t d, TileRange range,
                                      int64_t padded_dim, float* acc) {
  VecF32 sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < V; ++j) sums[r][j] = Load(acc + r * padded_dim + d + j * kLanes);
  }
  for (int position = range.begin; position < range.end; ++position) {
    values.template PrefetchNext<V * kLanes>();
    VecF32 value[V];
    for (int j = 0; j < V; ++j) value[j] = values.At(position, d + j * kLanes);
    for (int r = 0; r < R; ++r) {
      const VecF32 weight = Set(weights[r * kTilePositions + position]);
      for (int j = 0; j < V; ++j) sums[r][j] = MulAdd(weight, value[j], sums[r][j]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < V; ++j) Store(acc + r * padded_dim + d + j * kLanes, sums[r][j]);
  }
}

// acc[r] += sum over the positions in `range` of weights[r][position] * values[position], for R rows.
template <int R, typename Values>
void AddValues(const float* weights, const Values& values, TileRange range, int64_t padded_dim, float* acc) {
  int64_t d = 0;
  for (; d + kTileVecs * kLanes <= padded_dim; d += kTileVecs * kLanes) {
    AddValuesVecs<R, kTileVecs>(weights, values, d, range, padded_dim, acc);
  }
  for (; d < padded_dim; d += kLanes) AddValuesVecs<R, 1>(weights, values, d, range, padded_dim, acc);
}

// --------------------------------------------------------------------------------------------------------- results

// Adds the partial result of a later split to a row's.
[[gnu::noinline]] static void MergeRow(float part_max, float part_sum, const float* part_acc, int64_t padded_dim,
                                       float* max, float* sum, float* acc) {
  // Where the row sees nothing of a split; of NaNs alone, the sum is one.
  if (part_max == kMinusInfinity && part_sum == 0.0f) return;
  if (*max == kMinusInfinity && *sum == 0.0f) {
    *max = part_max;
    *sum = part_sum;
    for (int64_t d = 0; d < padded_dim; d += kLanes) Store(acc + d, Load(part_acc + d));
    return;
  }
  const float new_max = part_max > *max ? part_max : *max;
  const float scale = ScalarExp(*max - new_max);
  const float part_scale = ScalarExp(part_max - new_max);
  for (int64_t d = 0; d < padded_dim; d += kLanes) {
    Store(acc + d, MulAdd(Load(part_acc + d), Set(part_scale), Load(acc + d) * scale));
  }
  *sum = *sum * scale + part_sum * part_scale;
  *max = new_max;
}

// out[head_dim] = acc / sum, after the sink (if there is one) took its part of the softmax.
[[gnu::noinline]] static void FinishRow(float max, float sum, const float* sink, const float* acc, int64_t head_dim,
                                        float* out) {
  float scale = 1.0f;
  if (sink != nullptr) {
    const float new_max = *sink > max ? *sink : max;
    scale = ScalarExp(max - new_max);
    sum = sum * scale + ScalarExp(*sink - new_max);
  }
  scale /= sum;
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) Store(out + d, Load(acc + d) * scale);
  if (d < head_dim) StoreFirst(out + d, Load(acc + d) * scale, head_dim - d);
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_TILE_H_
