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

}  // namespace simt_internal

// Kernels follow one another here.
inline void AwaitEarlierGrids() {}
inline void PrefetchL2(const void*) {}

// The hardware may copy at any moment up to the wait: here at once or at the wait, at random, so that a wait for too
// few groups, or none, shows.
inline void CpAsync16(void* shared, const void* global, bool valid = true, MOED_SIMT_PLACE) {
  if (!simt_internal::Aligned16(shared) || !simt_internal::Aligned16(global)) {
    simt::Fail("an address is not a multiple of 16", MOED_SIMT_HERE("cp.async"));
  }
  simt::AsyncCopy copy = {shared, global, !valid, false};
  if (simt::RandomBits() % 2 == 0) copy.Perform();
  simt::AsyncCopyGroups().back().push_back(copy);
}

inline void CpAsyncCommit() { simt::AsyncCopyGroups().emplace_back(); }

// Waits until at most N of the committed groups are under way.
template <int N>
void CpAsyncWait() {
  auto& groups = simt::AsyncCopyGroups();
  while (static_cast<int>(groups.size()) - 1 > N) {
    for (simt::AsyncCopy& copy : groups.front()) copy.Perform();
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

}  // namespace moed::kernels::ptx

#endif  // TESTS_SUPPORT_SIMT_PTX_H_
