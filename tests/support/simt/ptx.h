// The wrappers of kernels/common/ptx.h, emulated: the same names and arguments, the fragment layouts of the PTX ISA
// (sections "Matrix Fragments for mma.m16n8k16" and "ldmatrix").
#ifndef TESTS_SUPPORT_SIMT_PTX_H_
#define TESTS_SUPPORT_SIMT_PTX_H_

#include "tests/support/simt/device_functions.h"

namespace moed::kernels::ptx {

namespace simt_internal {

inline bool Aligned16(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

struct BFloat16Element {
  static float Get(unsigned bits, int i) { return std::bit_cast<float>((bits >> (16 * i) & 0xffffu) << 16); }
};
struct HalfElement {
  static float Get(unsigned bits, int i) {
    __half_raw raw;
    raw.x = static_cast<unsigned short>(bits >> (16 * i));
    return __half2float(__half(raw));
  }
};
struct Int8Element {
  static int Get(unsigned bits, int i) { return static_cast<int8_t>(bits >> (8 * i)); }
};

// d += a b for a [16, K] by rows, b [K, 8] by columns; a register of a or b holds K / 8 elements.
template <typename Accumulator, int K, typename Element>
void MultiplyTile(Accumulator (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const simt::Place& place) {
  struct Fragments {
    const unsigned *a, *b;
    Accumulator* d;
  } own{a, b, d};
  simt::WarpCollective(
      ~0u, &own,
      [](unsigned, void** data) {
        constexpr int kPacked = K / 8;
        Accumulator left[16][K], right[K][8];
        for (int lane = 0; lane < 32; ++lane) {
          const auto* fragments = static_cast<const Fragments*>(data[lane]);
          const int group = lane / 4, member = lane % 4;
          for (int i = 0; i < kPacked; ++i) {
            for (int r = 0; r < 4; ++r) {
              left[group + 8 * (r % 2)][member * kPacked + i + r / 2 * (K / 2)] = Element::Get(fragments->a[r], i);
            }
            for (int r = 0; r < 2; ++r) {
              right[member * kPacked + i + r * (K / 2)][group] = Element::Get(fragments->b[r], i);
            }
          }
        }
        for (int lane = 0; lane < 32; ++lane) {
          auto* fragments = static_cast<Fragments*>(data[lane]);
          for (int i = 0; i < 4; ++i) {
            Accumulator sum = fragments->d[i];
            for (int k = 0; k < K; ++k) sum += left[lane / 4 + 8 * (i / 2)][k] * right[k][2 * (lane % 4) + i % 2];
            fragments->d[i] = sum;
          }
        }
      },
      place);
}

// Bytes of b that start at `place` of the layout, which the swizzle puts elsewhere in their 1024.
inline void ReadSwizzled(const simt::AsyncProduct& product, uintptr_t place, size_t bytes, void* to) {
  const void* from = reinterpret_cast<const void*>(place ^ (place >> 7 & 7) << 4);
  const void* quad = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) & ~uintptr_t{15});
  if (simt::IsUnfenced(quad)) simt::Fail("reads what no fence.proxy.async has shown it", product.place);
  std::memcpy(to, from, bytes);
}

// A column of b, by columns of 128 bytes or by rows of them, as kernels/common/ptx.h describes them.
template <typename Accumulator, int K, typename Element, bool kByRows>
void ReadColumn(const simt::AsyncProduct& product, int column, Accumulator (&right)[K]) {
  constexpr int kPacked = K / 8;  // elements of a word
  const uintptr_t b = reinterpret_cast<uintptr_t>(product.b);
  if constexpr (kByRows) {
    for (int k = 0; k < K; ++k) {
      uint16_t bits;
      ReadSwizzled(product, b + column / 64 * product.distance + k * 128 + column % 64 * 2, 2, &bits);
      right[k] = Element::Get(bits, 0);
    }
    return;
  }
  for (int half = 0; half < 2; ++half) {
    unsigned words[4];
    ReadSwizzled(product, b + column * 128 + half * 16, 16, words);
    for (int i = 0; i < K / 2; ++i) right[half * (K / 2) + i] = Element::Get(words[i / kPacked], i % kPacked);
  }
}

// The part of d (+)= a b that a warp has of a wgmma: a [16, K] by rows in its registers, b [K, N] in shared memory.
template <typename Accumulator, int N, int K, typename Element, bool kByRows>
void PerformProduct(const simt::AsyncProduct& product) {
  constexpr int kPacked = K / 8;  // elements of a register
  Accumulator left[K][16], right[K], sums[16];
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r) {
      for (int i = 0; i < kPacked; ++i) {
        left[lane % 4 * kPacked + i + r / 2 * (K / 2)][lane / 4 + 8 * (r % 2)] = Element::Get(product.a[lane][r], i);
      }
    }
  }
  for (int column = 0; column < N; ++column) {
    ReadColumn<Accumulator, K, Element, kByRows>(product, column, right);
    std::fill(std::begin(sums), std::end(sums), Accumulator{0});
    for (int row = 0; row < 16 && product.accumulate; ++row) {
      const int lane = row % 8 * 4 + column % 8 / 2;
      sums[row] = static_cast<Accumulator*>(product.d[lane])[column / 8 * 4 + row / 8 * 2 + column % 2];
    }
    for (int k = 0; k < K; ++k) {
      for (int row = 0; row < 16; ++row) sums[row] += left[k][row] * right[k];
    }
    for (int row = 0; row < 16; ++row) {
      const int lane = row % 8 * 4 + column % 8 / 2;
      static_cast<Accumulator*>(product.d[lane])[column / 8 * 4 + row / 8 * 2 + column % 2] = sums[row];
    }
  }
}

template <typename Accumulator, int N, int K, typename Element, bool kByRows = false>
void StartProduct(Accumulator (&d)[N / 2], const unsigned (&a)[4], const void* b, int distance, bool accumulate,
                  const simt::Place& place) {
  if (reinterpret_cast<uintptr_t>(b) % 32 != 0 || reinterpret_cast<uintptr_t>(b) % 1024 >= (kByRows ? 32 : 128)) {
    simt::Fail("b does not start in a first column or row, at a multiple of 32 bytes", place);
  }
  simt::AsyncProduct own = {
      .a = {a}, .b = b, .distance = distance, .d = {d}, .accumulate = accumulate, .place = place, .perform = {}};
  simt::WarpCollective(
      ~0u, &own,
      [](unsigned, void** data) {
        simt::AsyncProduct product = *static_cast<simt::AsyncProduct*>(data[0]);
        for (int lane = 0; lane < 32; ++lane) {
          const auto* part = static_cast<const simt::AsyncProduct*>(data[lane]);
          product.a[lane] = part->a[0];
          product.d[lane] = part->d[0];
          if (part->b != product.b || part->accumulate != product.accumulate) {
            simt::Fail("lanes do not agree on b", product.place);
          }
        }
        product.perform = PerformProduct<Accumulator, N, K, Element, kByRows>;
        simt::AsyncProducts& products = simt::WarpProducts();
        if (!products.is_fenced) simt::Fail("registers were written, and no wgmma.fence came since", product.place);
        products.groups.back().push_back(product);
        if (simt::RandomBits() % 2 == 0) products.PerformAll();
      },
      place);
}

}  // namespace simt_internal

// Kernels follow one another here.
inline void AwaitEarlierGrids() {}
inline void PrefetchL2(const void*) {}

// The hardware may copy at any moment up to the wait: here at once or at the wait, at random, so that a wait for too
// few groups, or none, shows.
inline void StartCopy(void* shared, const void* global, size_t bytes, bool valid, const simt::Place& place) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes != 0) {
    simt::Fail("an address is not a multiple of what is copied", place);
  }
  simt::AsyncCopy copy = {shared, global, bytes, !valid, false};
  simt::NoteStarted(copy);
  if (simt::RandomBits() % 2 == 0) copy.Perform();
  simt::AsyncCopyGroups().back().push_back(copy);
}
inline void CpAsync16(void* shared, const void* global, bool valid = true, MOED_SIMT_PLACE) {
  StartCopy(shared, global, 16, valid, MOED_SIMT_HERE("cp.async"));
}
inline void CpAsync4(void* shared, const void* global, bool valid = true, MOED_SIMT_PLACE) {
  StartCopy(shared, global, 4, valid, MOED_SIMT_HERE("cp.async"));
}

inline void CpAsyncCommit() { simt::AsyncCopyGroups().emplace_back(); }

// Waits until at most N of the committed groups are under way.
template <int N>
void CpAsyncWait() {
  auto& groups = simt::AsyncCopyGroups();
  while (static_cast<int>(groups.size()) - 1 > N) {
    for (simt::AsyncCopy& copy : groups.front()) {
      copy.Perform();
      simt::NoteWaitedFor(copy);
    }
    groups.erase(groups.begin());
  }
}

template <int X, bool Transposed>
void LdMatrix(unsigned (&r)[X], const void* row, MOED_SIMT_PLACE) {
  if (!simt_internal::Aligned16(row)) simt::Fail("an address is not a multiple of 16", MOED_SIMT_HERE("ldmatrix"));
  struct Rows {
    uint16_t row[8];
    unsigned* r;
  } own{{}, r};
  // Each lane reads its own row, so that the sanitizers see who reads what.
  if (simt::Lane() < 8 * X) std::memcpy(own.row, row, 16);
  simt::WarpCollective(
      ~0u, &own,
      [](unsigned, void** data) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int j = 0; j < X; ++j) {
            unsigned pair = 0;
            for (int i = 0; i < 2; ++i) {
              const int matrix_row = Transposed ? 2 * (lane % 4) + i : lane / 4;
              const int column = Transposed ? lane / 4 : 2 * (lane % 4) + i;
              pair |= static_cast<unsigned>(static_cast<Rows*>(data[8 * j + matrix_row])->row[column]) << (16 * i);
            }
            static_cast<Rows*>(data[lane])->r[j] = pair;
          }
        }
      },
      MOED_SIMT_HERE(Transposed ? "ldmatrix.trans" : "ldmatrix"));
}

inline void MmaBf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], MOED_SIMT_PLACE) {
  simt_internal::MultiplyTile<float, 16, simt_internal::BFloat16Element>(d, a, b, MOED_SIMT_HERE("mma.bf16"));
}
inline void MmaF16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], MOED_SIMT_PLACE) {
  simt_internal::MultiplyTile<float, 16, simt_internal::HalfElement>(d, a, b, MOED_SIMT_HERE("mma.f16"));
}
inline void MmaS8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], MOED_SIMT_PLACE) {
  simt_internal::MultiplyTile<int, 32, simt_internal::Int8Element>(d, a, b, MOED_SIMT_HERE("mma.s8"));
}

inline unsigned SubtractBf16(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float difference =
        std::bit_cast<float>((a >> shift & 0xffffu) << 16) - std::bit_cast<float>((b >> shift & 0xffffu) << 16);
    result |= static_cast<unsigned>(std::bit_cast<uint16_t>(__float2bfloat16_rn(difference))) << shift;
  }
  return result;
}

inline float Exp2(float x) { return std::exp2(x); }
// ------------------------------------------------------------------------------- products of warpgroups (wgmma,
// sm_90a)

// As with copies, a product happens at any moment up to the wait, at random; before it come those that were started
// earlier. That the four warps of a warpgroup come together is not seen to.
constexpr bool kHasWgmma = true;

inline int Recompute(int value) { return value; }
inline void Trap(MOED_SIMT_PLACE) { simt::Fail("a kernel that is not for this device", MOED_SIMT_HERE("trap")); }
inline void FenceProxyAsync() { simt::FenceAsyncCopies(); }

inline void WgmmaFence(MOED_SIMT_PLACE) {
  simt::WarpCollective(
      ~0u, nullptr, [](unsigned, void**) { simt::WarpProducts().is_fenced = true; }, MOED_SIMT_HERE("wgmma.fence"));
}
inline void WgmmaCommit(MOED_SIMT_PLACE) {
  simt::WarpCollective(
      ~0u, nullptr,
      [](unsigned, void**) {
        simt::WarpProducts().groups.emplace_back();
        simt::WarpProducts().is_fenced = false;
      },
      MOED_SIMT_HERE("wgmma.commit_group"));
}
template <int N>
void WgmmaWait(MOED_SIMT_PLACE) {
  simt::WarpCollective(
      ~0u, nullptr,
      [](unsigned, void**) {
        auto& groups = simt::WarpProducts().groups;
        while (static_cast<int>(groups.size()) - 1 > N) {
          for (const simt::AsyncProduct& product : groups.front()) product.perform(product);
          groups.erase(groups.begin());
        }
      },
      MOED_SIMT_HERE("wgmma.wait_group"));
}
template <typename T, int N>
void WgmmaResults(T (&/*d*/)[N]) {}

template <int N>
void WgmmaBf16(float (&d)[N / 2], const unsigned (&a)[4], const void* b, bool accumulate, MOED_SIMT_PLACE) {
  simt_internal::StartProduct<float, N, 16, simt_internal::BFloat16Element>(d, a, b, 0, accumulate,
                                                                            MOED_SIMT_HERE("wgmma.bf16"));
}
template <int N>
void WgmmaBf16ByRows(float (&d)[N / 2], const unsigned (&a)[4], const void* b, int distance, bool accumulate,
                     MOED_SIMT_PLACE) {
  simt_internal::StartProduct<float, N, 16, simt_internal::BFloat16Element, true>(d, a, b, distance, accumulate,
                                                                                  MOED_SIMT_HERE("wgmma.bf16"));
}
template <int N>
void WgmmaS8(int (&d)[N / 2], const unsigned (&a)[4], const void* b, bool accumulate, MOED_SIMT_PLACE) {
  simt_internal::StartProduct<int, N, 32, simt_internal::Int8Element>(d, a, b, 0, accumulate,
                                                                      MOED_SIMT_HERE("wgmma.s8"));
}

}  // namespace moed::kernels::ptx

#endif  // TESTS_SUPPORT_SIMT_PTX_H_
