// One tile of positions in integers: scores, and the weighted sum of values, by 8-bit dot products with the bytes that
// the cache holds. For CPU bodies only (see simd.h), of instruction sets that have such products.
//
// What meets the bytes becomes an integer of 16 bits, a high and a low byte with dot products of their own: an element
// of a query to one part in 32,639 of the row's largest, a weight (times its value's scale) to one in 65,535 of the
// tile's largest. Both stay well below what the pages lost when their own integers, of 8 bits, were rounded.
// (SageAttention, Zhang et al. 2024, arXiv:2410.02367,
// multiplies quantised keys with queries of eight bits, and values as floats.) Sums are whole numbers, the same in any
// order, and no bit of a row's result hangs on the rows beside it.
#ifndef KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_INTEGERS_H_
#define KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_INTEGERS_H_

#include <utility>

#include "kernels/common/simd_int.h"
#include "kernels/common/simd_quantize.h"
#include "kernels/paged_attention/paged_attention_tile.h"

namespace moed::kernels::MOED_ISA {

// Whether products are made so: in the bodies for instruction sets with 8-bit dot products, which are for pages that
// can be multiplied so (paged_attention.cc) and no others.
#if defined(MOED_BYTE_DOTS)
constexpr bool kMultipliesIntegers = true;
#else
constexpr bool kMultipliesIntegers = false;
#endif

// Accumulators of a pass, so that they stay in registers beside what is loaded; of 5 and 6 rows on 8 lanes there are
// 10 and 12 at the least.
constexpr int kIntegerAccumulators = kLanes == 16 ? 24 : 8;

// Vectors that one pass takes for R rows of two bytes each.
template <int R>
constexpr int kIntegerVecs = 2 * R * 4 <= kIntegerAccumulators   ? 4
                             : 2 * R * 2 <= kIntegerAccumulators ? 2
                                                                 : 1;

// x * scale to the nearest integer, for magnitudes below 2^22, rounded once wherever this is inlined; 0 where `scale`
// is 0, whatever x is.
MOED_ALWAYS_INLINE VecI32 NearestInt(VecF32 x, float scale) {
  if (scale == 0.0f) return VecI32{};
  return reinterpret_cast<VecI32>(MulAdd(x, Set(scale), Set(12582912.0f))) - 0x4b400000;
}

// 256 * high + low
MOED_ALWAYS_INLINE VecF32 Combine(VecI32 high, VecI32 low) {
  return MulAdd(__builtin_convertvector(high, VecF32), Set(256.0f), __builtin_convertvector(low, VecF32));
}

// Query rows as integers, 256 * high + low with two signed bytes.
class IntegerQueries {
 public:
  // Floats that `rows` of them take, of head_dim elements (a multiple of four).
  static int64_t Floats(int64_t rows, int64_t head_dim) { return rows * (head_dim / 2 + 3); }

  MOED_ALWAYS_INLINE IntegerQueries(float* memory, int64_t rows, int64_t head_dim)
      : rows_(rows),
        scales_(memory),
        starts_(reinterpret_cast<int32_t*>(memory + rows)),
        bytes_(reinterpret_cast<int8_t*>(memory + 3 * rows)),
        head_dim_(head_dim) {}

  // Row r becomes query[head_dim] times `scale`. One that is not finite gets NaN as its scale.
  void Set(int64_t r, const float* query, float scale) const {
    constexpr float kLargest = 127 * 256 + 127;
    const float largest = LargestMagnitude(query, head_dim_);
    const float inverse = largest > 1e-30f ? kLargest / largest : 0.0f;
    VecI32 high_sum = {}, low_sum = {};
    for (int64_t d = 0; d < head_dim_; d += kLanes) {
      const int64_t n = head_dim_ - d < kLanes ? head_dim_ - d : kLanes;
      const VecI32 q = NearestInt(LoadFirst(query + d, n), inverse);
      const VecI32 high = (q + 128) >> 8, low = q - (high << 8);
      high_sum += high;
      low_sum += low;
      const VecI8 high_bytes = NarrowTo8(high), low_bytes = NarrowTo8(low);
      for (int64_t i = 0; i < n; i += 4) {
        int8_t* const to = bytes_ + ((d + i) / 4 * rows_ + r) * 8;
        std::memcpy(to, reinterpret_cast<const char*>(&high_bytes) + i, 4);
        std::memcpy(to + 4, reinterpret_cast<const char*>(&low_bytes) + i, 4);
      }
    }
    starts_[2 * r] = -128 * ReduceSum(high_sum);
    starts_[2 * r + 1] = -128 * ReduceSum(low_sum);
    scales_[r] = largest / kLargest * scale;
  }

  // Of the rows from `row` on: [high, low][4] of each, for word `word` of a key.
  MOED_ALWAYS_INLINE const int8_t* Word(int64_t word, int64_t row) const { return bytes_ + (word * rows_ + row) * 8; }
  MOED_ALWAYS_INLINE int64_t word_stride() const { return rows_ * 8; }
  MOED_ALWAYS_INLINE const int32_t* Starts(int64_t row) const { return starts_ + 2 * row; }
  MOED_ALWAYS_INLINE float scale(int64_t row) const { return scales_[row]; }
  MOED_ALWAYS_INLINE int64_t num_words() const { return head_dim_ / 4; }

 private:
  int64_t rows_;
  float* scales_;    // [rows]
  int32_t* starts_;  // [rows][high, low]: what sums start from, as keys are raised by 128 to have no sign
  int8_t* bytes_;    // [head_dim / 4][rows][high, low][4]
  int64_t head_dim_;
};

// scores[r][position] of the vectors that `range` touches, for R rows of `queries` from `row` on. Meanwhile the keys of
// `next` are asked for, if there are any.
template <int R>
void IntegerScores(const IntegerQueries& queries, int64_t row, const CacheWords<int8_t>& keys,
                   const CacheWords<int8_t>* next, TileRange range, float* scores) {
  constexpr int V = kIntegerVecs<R>;
  const int64_t num_words = queries.num_words(), stride = keys.stride;
  for (int g = range.begin / kLanes / V * V; g * kLanes < range.end; g += V) {
    VecI32 sums[R][2][V];
    for (int r = 0; r < R; ++r) {
      for (int part = 0; part < 2; ++part) {
        for (int v = 0; v < V; ++v) sums[r][part][v] = SetI32(queries.Starts(row + r)[part]);
      }
    }
    const char* from[V];
    const char* ahead[V];
    for (int v = 0; v < V; ++v) {
      from[v] = keys.groups[g + v];
      ahead[v] = next != nullptr ? next->groups[g + v] : from[v];
      if (next != nullptr) PrefetchL2(next->scales[g + v]);
    }
    const int8_t* query = queries.Word(0, row);
    for (int64_t word = 0, offset = 0; word < num_words; ++word, offset += stride, query += queries.word_stride()) {
      VecInt raised[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        if (v % (16 / kLanes) == 0) PrefetchL2(ahead[v] + offset);
        raised[v] = reinterpret_cast<VecInt>(LoadBits<VecU32>(from[v] + offset) ^ 0x80808080u);
      }
#pragma GCC unroll 12
      for (int i = 0; i < 2 * R; ++i) {
        const auto four = reinterpret_cast<VecInt>(BroadcastFourBytes(query + i * 4));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[i / 2][i % 2][v] = Dot(raised[v], four, sums[i / 2][i % 2][v]);
      }
    }
    for (int v = 0; v < V; ++v) {
      const VecF32 key_scales = Load(keys.scales[g + v]);
      for (int r = 0; r < R; ++r) {
        Store(scores + r * kTilePositions + (g + v) * kLanes,
              Combine(sums[r][0][v], sums[r][1][v]) * (key_scales * queries.scale(row + r)));
      }
    }
  }
}

// Where the values of a tile lie whose blocks hold whole groups of positions.
struct ValueGroups {
  static constexpr int kPositions = static_cast<int>(kKeyWordPositions);
  static constexpr int kGroups = kTilePositions / kPositions;
  const int8_t* groups[kGroups];  // the first row of each
  const float* scales[kGroups];
  int64_t stride;  // from a row to the next

  // Group g begins with that row, counted through all pages.
  MOED_ALWAYS_INLINE void Set(int g, const TensorView& pages, const TensorView& page_scales, int64_t row) {
    stride = pages.stride(2);
    groups[g] = pages.As<int8_t>() + row * stride;
    scales[g] = page_scales.As<float>() + row;
  }
  MOED_ALWAYS_INLINE void Copy(int from, int to) {
    groups[to] = groups[from];
    scales[to] = scales[from];
  }
};

// The weights of R rows for one tile, times the values' scales, as integers 256 * high + low of two bytes without sign.
template <int R>
struct IntegerWeights {
  uint8_t fours[R][kTilePositions / 4][2][4];  // [row][four positions][high, low][position]
  float scales[R];

  // From weights[R][kTilePositions], which like the values' scales are not negative, of which row r sees ranges[r]; the
  // others become zeros. (Each stage takes all rows, as in SoftmaxStep.) Overwrites the weights.
  MOED_ALWAYS_INLINE IntegerWeights(float* weights, const TileRange* ranges, const ValueGroups& values) {
    constexpr int kVecs = kTilePositions / kLanes;
    constexpr float kLargest = 65535.0f;
    VecI32 largest[R];
    for (int r = 0; r < R; ++r) {
      const bool sees_all = ranges[r].begin <= 0 && ranges[r].end >= kTilePositions;
      largest[r] = VecI32{};
      for (int v = 0; v < kVecs; ++v) {
        const int position = v * kLanes;
        float* const to = weights + r * kTilePositions + position;
        VecF32 weight =
            Load(to) * Load(values.scales[position / ValueGroups::kPositions] + position % ValueGroups::kPositions);
        // Not even the scale of what a row does not see may touch it: 0 times a NaN is a NaN.
        if (!sees_all) weight = Visible(v, ranges[r]) ? weight : VecF32{};
        Store(to, weight);
        // As integers, magnitudes compare as floats do, and NaNs are larger than any.
        largest[r] = Max(reinterpret_cast<VecI32>(weight) & 0x7fffffff, largest[r]);
      }
    }
    float inverses[R];
    for (int r = 0; r < R; ++r) {
      const int32_t bits = ReduceMax(largest[r]);
      const float magnitude = __builtin_bit_cast(float, bits);
      const bool finite = bits < 0x7f800000;
      inverses[r] = finite && magnitude > 1e-30f ? kLargest / magnitude : 0.0f;
      scales[r] = finite ? magnitude / kLargest : __builtin_nanf("");
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVecs; ++v) {
        const VecI32 integers = NearestInt(Load(weights + r * kTilePositions + v * kLanes), inverses[r]);
        StoreFours(NarrowTo16(reinterpret_cast<VecU32>(integers)), std::make_integer_sequence<int, kLanes * 2>(),
                   fours[r][v * kLanes / 4][0]);
      }
    }
  }

 private:
  template <int... I>
  MOED_ALWAYS_INLINE static void StoreFours(VecU16 v, std::integer_sequence<int, I...>, uint8_t* to) {
    typedef uint8_t Bytes __attribute__((vector_size(kLanes * 2)));
    const auto bytes = reinterpret_cast<Bytes>(v);
    const Bytes parted = __builtin_shufflevector(bytes, bytes, (I / 8 * 8 + I % 4 * 2 + (I % 8 < 4 ? 1 : 0))...);
    std::memcpy(to, &parted, sizeof(parted));
  }
};

// Elements of a row of values that are multiplied at a time. In the sums of a chunk, element 16 b + 4 v + i lies at
// v * kLanes + 4 b + i: vector v has four elements of each 128 bits.
constexpr int kValueChunk = 4 * kLanes;
static_assert(kKeyWordPositions % kLanes == 0 && kTilePositions % kKeyWordPositions == 0,
              "vectors of positions lie within a group");
MOED_ALWAYS_INLINE int64_t PlaceOfFour(int64_t element) {
  return element / kValueChunk * kValueChunk + element % 16 / 4 * kLanes + element % kValueChunk / 16 * 4;
}

// In each 128 bits a0 b0 a1 b1 … of the lower (kHalf = 0) or upper (kHalf = 1) half.
template <int kHalf, typename Vec, int... I>
MOED_ALWAYS_INLINE Vec InterleaveIn128(Vec a, Vec b, std::integer_sequence<int, I...>) {
  constexpr int kElements = static_cast<int>(sizeof(a) / sizeof(a[0])), kOf128 = 16 / static_cast<int>(sizeof(a[0]));
  return __builtin_shufflevector(a, b,
                                 (I / kOf128 * kOf128 + (kHalf * kOf128 + I % kOf128) / 2 + I % 2 * kElements)...);
}
template <int kHalf, typename Vec>
MOED_ALWAYS_INLINE Vec InterleaveIn128(Vec a, Vec b) {
  return InterleaveIn128<kHalf>(a, b, std::make_integer_sequence<int, sizeof(a) / sizeof(a[0])>());
}

// Vectors kFirst to kFirst + V - 1 of a chunk of four positions: each lane has an element of all four.
template <int kFirst, int V>
MOED_ALWAYS_INLINE void LoadFour(const int8_t* rows, int64_t stride, int64_t n, VecInt (&fours)[V]) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes * 4)));
  typedef uint16_t Pairs __attribute__((vector_size(kLanes * 4)));
  Bytes row[4];
  for (int i = 0; i < 4; ++i) {
    const int8_t* const from = rows + i * stride;
    row[i] = n >= kValueChunk ? LoadBits<Bytes>(from)
                              : reinterpret_cast<Bytes>(LoadFirst(reinterpret_cast<const float*>(from), n / 4));
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const bool upper = kFirst + v >= 2, odd = (kFirst + v) % 2 == 1;
    const auto first =
        reinterpret_cast<Pairs>(upper ? InterleaveIn128<1>(row[0], row[1]) : InterleaveIn128<0>(row[0], row[1]));
    const auto last =
        reinterpret_cast<Pairs>(upper ? InterleaveIn128<1>(row[2], row[3]) : InterleaveIn128<0>(row[2], row[3]));
    fours[v] = reinterpret_cast<VecInt>(odd ? InterleaveIn128<1>(first, last) : InterleaveIn128<0>(first, last));
  }
}

// Adds vectors kFirst to kFirst + V - 1 of the chunk at d, of which n elements exist, to those of acc.
template <int R, int kFirst, int V>
MOED_ALWAYS_INLINE void AddIntegerVecs(const IntegerWeights<R>& weights, const ValueGroups& values,
                                       const ValueGroups* next, int64_t d, int64_t n, TileRange range,
                                       int64_t padded_dim, float* acc) {
  constexpr int kFours = ValueGroups::kPositions / 4;
  VecI32 sums[R][2][V] = {};
  for (int g = range.begin / ValueGroups::kPositions; g * ValueGroups::kPositions < range.end; ++g) {
    const int8_t* from = values.groups[g] + d;
    const int8_t* ahead = next != nullptr ? next->groups[g] + d : from;
    if (next != nullptr) PrefetchL2(next->scales[g]);
    const uint8_t* weight = weights.fours[0][g * kFours][0];
    for (int four = 0; four < kFours; ++four, from += 4 * values.stride, ahead += 4 * values.stride, weight += 8) {
      if constexpr (kFirst == 0) {
        for (int i = 0; i < 4; ++i) PrefetchL2(ahead + i * values.stride);
      }
      VecInt bytes[V];
      LoadFour<kFirst>(from, values.stride, n, bytes);
#pragma GCC unroll 12
      for (int i = 0; i < 2 * R; ++i) {
        const auto w = reinterpret_cast<VecInt>(
            BroadcastFourBytes(reinterpret_cast<const int8_t*>(weight) + i / 2 * kTilePositions * 2 + i % 2 * 4));
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[i / 2][i % 2][v] = Dot(w, bytes[v], sums[i / 2][i % 2][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      float* const to = acc + r * padded_dim + d + (kFirst + v) * kLanes;
      Store(to, MulAdd(Combine(sums[r][0][v], sums[r][1][v]), Set(weights.scales[r]), Load(to)));
    }
  }
}

// acc[r] += sum over the positions of weights[r][position] * values[position], for R rows; `range` has all that some
// row sees, and each of acc's chunks is in the order of PlaceOfFour(). Meanwhile the values of `next` are asked for, if
// there are any.
template <int R>
void AddIntegerValues(const IntegerWeights<R>& weights, const ValueGroups& values, const ValueGroups* next,
                      TileRange range, int64_t head_dim, int64_t padded_dim, float* acc) {
  constexpr int V = kIntegerVecs<R>;
  for (int64_t d = 0; d < head_dim; d += kValueChunk) {
    const int64_t n = head_dim - d;
    AddIntegerVecs<R, 0, V>(weights, values, next, d, n, range, padded_dim, acc);
    if constexpr (V == 1) AddIntegerVecs<R, 1, V>(weights, values, next, d, n, range, padded_dim, acc);
    if constexpr (V <= 2) AddIntegerVecs<R, 2, V>(weights, values, next, d, n, range, padded_dim, acc);
    if constexpr (V == 1) AddIntegerVecs<R, 3, V>(weights, values, next, d, n, range, padded_dim, acc);
  }
}

}  // namespace moed::kernels::MOED_ISA

#endif  // KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_INTEGERS_H_
