// CUDA's device functions for the host compiler: synchronisation, votes, shuffles, atomics and arithmetic, with CUDA's
// names and signatures. Each that synchronises takes the caller's place in the source as hidden last arguments.
#ifndef TESTS_SUPPORT_SIMT_DEVICE_FUNCTIONS_H_
#define TESTS_SUPPORT_SIMT_DEVICE_FUNCTIONS_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "tests/support/simt/sanitizers.h"
#include "tests/support/simt/scheduler.h"

// clang-format off
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// clang-format on

#define MOED_SIMT_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define MOED_SIMT_HERE(operation) \
  ::moed::simt::Place { operation, file, line }

// ------------------------------------------------------------------------------------------------- synchronisation

inline void __syncthreads(MOED_SIMT_PLACE) { moed::simt::Barrier(false, MOED_SIMT_HERE("__syncthreads")); }
inline int __syncthreads_count(int predicate, MOED_SIMT_PLACE) {
  return moed::simt::Barrier(predicate != 0, MOED_SIMT_HERE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, MOED_SIMT_PLACE) {
  return moed::simt::Barrier(predicate != 0, MOED_SIMT_HERE("__syncthreads_or")) > 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = ~0u, MOED_SIMT_PLACE) {
  // One object a warp: a little stronger than the hardware over several of these.
  moed::simt::RaceDetectorRelease(moed::simt::WarpIdentity());
  moed::simt::WarpCollective(
      mask, nullptr, [](unsigned, void**) {}, MOED_SIMT_HERE("__syncwarp"));
  moed::simt::RaceDetectorAcquire(moed::simt::WarpIdentity());
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// ----------------------------------------------------------------------------------------------- votes and shuffles

namespace moed::simt {

inline unsigned Ballot(unsigned mask, bool predicate, const Place& place) {
  struct Vote {
    unsigned predicate, result;
  } vote{predicate ? 1u : 0u, 0};
  WarpCollective(
      mask, &vote,
      [](unsigned arrived, void** data) {
        unsigned result = 0;
        for (int lane = 0; lane < 32; ++lane) {
          if ((arrived >> lane & 1) != 0) result |= static_cast<Vote*>(data[lane])->predicate << lane;
        }
        for (int lane = 0; lane < 32; ++lane) {
          if ((arrived >> lane & 1) != 0) static_cast<Vote*>(data[lane])->result = result;
        }
      },
      place);
  return vote.result;
}

template <typename T>
T Shuffle(unsigned mask, T value, int source, const Place& place) {
  static_assert(std::is_trivially_copyable_v<T>);
  struct Exchange {
    T value;
    int source;
    T result;
    bool missing;
  } exchange{value, source, value, false};
  WarpCollective(
      mask, &exchange,
      [](unsigned arrived, void** data) {
        for (int lane = 0; lane < 32; ++lane) {
          if ((arrived >> lane & 1) == 0) continue;
          auto* own = static_cast<Exchange*>(data[lane]);
          own->missing = (arrived >> own->source & 1) == 0;
          if (!own->missing) own->result = static_cast<Exchange*>(data[own->source])->value;
        }
      },
      place);
  if (exchange.missing) Fail("reads a lane that takes no part", place);
  return exchange.result;
}

// The first lane of the calling lane's segment of `width` lanes.
inline int SegmentStart(int width) { return Lane() & ~(width - 1); }

}  // namespace moed::simt

inline unsigned __ballot_sync(unsigned mask, int predicate, MOED_SIMT_PLACE) {
  return moed::simt::Ballot(mask, predicate != 0, MOED_SIMT_HERE("__ballot_sync"));
}
inline int __any_sync(unsigned mask, int predicate, MOED_SIMT_PLACE) {
  return moed::simt::Ballot(mask, predicate != 0, MOED_SIMT_HERE("__any_sync")) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, MOED_SIMT_PLACE) {
  return moed::simt::Ballot(mask, predicate == 0, MOED_SIMT_HERE("__all_sync")) == 0 ? 1 : 0;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, MOED_SIMT_PLACE) {
  const int lane = moed::simt::SegmentStart(width) + (source & (width - 1));
  return moed::simt::Shuffle(mask, value, lane, MOED_SIMT_HERE("__shfl_sync"));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, MOED_SIMT_PLACE) {
  const int lane = moed::simt::Lane() ^ lane_mask;
  const bool inside = lane < moed::simt::SegmentStart(width) + width;
  return moed::simt::Shuffle(mask, value, inside ? lane : moed::simt::Lane(), MOED_SIMT_HERE("__shfl_xor_sync"));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, MOED_SIMT_PLACE) {
  const int lane = moed::simt::Lane() + static_cast<int>(delta);
  const bool inside = lane < moed::simt::SegmentStart(width) + width;
  return moed::simt::Shuffle(mask, value, inside ? lane : moed::simt::Lane(), MOED_SIMT_HERE("__shfl_down_sync"));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, MOED_SIMT_PLACE) {
  const int lane = moed::simt::Lane() - static_cast<int>(delta);
  const bool inside = lane >= moed::simt::SegmentStart(width);
  return moed::simt::Shuffle(mask, value, inside ? lane : moed::simt::Lane(), MOED_SIMT_HERE("__shfl_up_sync"));
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value, MOED_SIMT_PLACE) {
  struct Match {
    T value;
    unsigned result;
  } match{value, 0};
  moed::simt::WarpCollective(
      mask, &match,
      [](unsigned arrived, void** data) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int other = 0; other < 32; ++other) {
            if ((arrived >> lane & 1) == 0 || (arrived >> other & 1) == 0) continue;
            auto* own = static_cast<Match*>(data[lane]);
            if (own->value == static_cast<Match*>(data[other])->value) own->result |= 1u << other;
          }
        }
      },
      MOED_SIMT_HERE("__match_any_sync"));
  return match.result;
}

namespace moed::simt {

// function(a, b) over the values of the lanes in `mask`.
template <typename T, typename Function>
T Reduce(unsigned mask, T value, const Function&, const Place& place) {
  struct Part {
    T value, result;
  } part{value, value};
  WarpCollective(
      mask, &part,
      [](unsigned arrived, void** data) {
        Part* first = nullptr;
        for (int lane = 0; lane < 32; ++lane) {
          if ((arrived >> lane & 1) == 0) continue;
          auto* own = static_cast<Part*>(data[lane]);
          if (first == nullptr) first = own;
          first->result = Function()(first->result, own->value);
        }
        for (int lane = 0; lane < 32; ++lane) {
          if ((arrived >> lane & 1) != 0) static_cast<Part*>(data[lane])->result = first->result;
        }
      },
      place);
  return part.result;
}

}  // namespace moed::simt

#define MOED_SIMT_REDUCE(T)                                                                        \
  inline T __reduce_max_sync(unsigned mask, T value, MOED_SIMT_PLACE) {                            \
    return moed::simt::Reduce(                                                                     \
        mask, value, [](T a, T b) { return a < b ? b : a; }, MOED_SIMT_HERE("__reduce_max_sync")); \
  }                                                                                                \
  inline T __reduce_min_sync(unsigned mask, T value, MOED_SIMT_PLACE) {                            \
    return moed::simt::Reduce(                                                                     \
        mask, value, [](T a, T b) { return b < a ? b : a; }, MOED_SIMT_HERE("__reduce_min_sync")); \
  }
MOED_SIMT_REDUCE(int)
MOED_SIMT_REDUCE(unsigned)
#undef MOED_SIMT_REDUCE

// ---------------------------------------------------------------------------------------- atomics, relaxed as in CUDA

namespace moed::simt {

template <typename T, typename Function>
T AtomicUpdate(T* address, const Function& function) {
  MaybeYield();
  std::atomic_ref<T> value(*address);
  T old = value.load(std::memory_order_relaxed);
  while (!value.compare_exchange_weak(old, static_cast<T>(function(old)), std::memory_order_relaxed)) {
  }
  return old;
}

}  // namespace moed::simt

template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return old + value; });
}
template <typename T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return old - value; });
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return std::max(old, value); });
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return std::min(old, value); });
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T) { return value; });
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return old | value; });
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return moed::simt::AtomicUpdate(address, [&](T old) { return old & value; });
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  moed::simt::MaybeYield();
  std::atomic_ref<T>(*address).compare_exchange_strong(compare, value, std::memory_order_relaxed);
  return compare;
}

// ------------------------------------------------------ arithmetic that CUDA's headers declare for nvcc's eyes only

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
// Each nibble of the selector names a byte of the two words; signs are not replicated (bit 3 of a nibble).
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t words = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(words >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
  }
  return result;
}
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }

#define MOED_SIMT_MIN_MAX(T)                       \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
MOED_SIMT_MIN_MAX(int)
MOED_SIMT_MIN_MAX(unsigned)
MOED_SIMT_MIN_MAX(long)
MOED_SIMT_MIN_MAX(unsigned long)
MOED_SIMT_MIN_MAX(long long)
MOED_SIMT_MIN_MAX(unsigned long long)
MOED_SIMT_MIN_MAX(float)
MOED_SIMT_MIN_MAX(double)
#undef MOED_SIMT_MIN_MAX

#endif  // TESTS_SUPPORT_SIMT_DEVICE_FUNCTIONS_H_
