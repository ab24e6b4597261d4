// Inline PTX, all of it: instructions that CUDA C++ has no word for. For a host compiler tests/support/simt/ptx.h has
// the same functions. Fragment layouts are those of the PTX ISA ("Matrix Fragments for mma.m16n8k16", "ldmatrix").
#ifndef KERNELS_COMMON_PTX_H_
#define KERNELS_COMMON_PTX_H_

#include "kernels/common/cuda.h"

#if defined(__CUDACC__)

namespace moed::kernels::ptx {

__device__ __forceinline__ unsigned SharedAddress(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// For kernels that MOED_LAUNCH_DEPENDENT launches, at their very start: waits until all earlier ones have ended and
// what they wrote is seen, and lets the next begin. Before it a kernel reads nothing that another one writes, and
// writes nothing; every thread passes it, since the next kernel counts on this one's end to be the end of all before.
__device__ __forceinline__ void AwaitEarlierGrids() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings the line of 128 bytes at `global` to the second-level cache.
__device__ __forceinline__ void PrefetchL2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// Starts a copy of 16 bytes from global to shared memory, past the first-level cache; both addresses are multiples of
// 16. Without `valid`, zeros are written and `global` is not read.
__device__ __forceinline__ void CpAsync16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)), "l"(global), "r"(bytes)
               : "memory");
}

// The same for 4 bytes, through the first-level cache; both addresses are multiples of 4.
__device__ __forceinline__ void CpAsync4(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(shared)), "l"(global), "r"(bytes)
               : "memory");
}

// Makes one group of the copies that the calling thread has started since the last.
__device__ __forceinline__ void CpAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of the calling thread's groups are under way. Other threads see the data after a barrier.
template <int N>
__device__ __forceinline__ void CpAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Loads X (2 or 4) matrices of 8 x 8 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
template <int X, bool Transposed>
__device__ __forceinline__ void LdMatrix(unsigned (&r)[X], const void* row) {
  static_assert(X == 2 || X == 4);
  const unsigned address = SharedAddress(row);
  if constexpr (X == 4 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (X == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  }
}

// d += a b on the tensor cores: a [16, 16] by rows, b [16, 8] by columns, d [16, 8] in float.
__device__ __forceinline__ void MmaBf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void MmaF16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// a [16, 32] by rows, b [32, 8] by columns, of 8-bit integers; d in 32-bit ones.
__device__ __forceinline__ void MmaS8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Each of a pair of bf16 less its counterpart in `b`.
__device__ __forceinline__ unsigned SubtractBf16(unsigned a, unsigned b) {
  constexpr unsigned kMinusOnes = 0xbf80bf80u;
  unsigned result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(b), "r"(kMinusOnes), "r"(a));
  return result;
}

// 2 to the power of x, to about two units in the last place; subnormal results are zero.
__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// ------------------------------------------------------------------------------- products of warpgroups (wgmma,
// sm_90a)

// Whether this pass of the compiler is for a device that has them. Elsewhere kernels that need them are traps, which
// the host does not launch.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MOED_PTX_WGMMA 1
constexpr bool kHasWgmma = true;
#else
#define MOED_PTX_WGMMA 0
constexpr bool kHasWgmma = false;
#endif

// The same value, of which the compiler does not know that: what is computed from it in a loop is computed anew each
// time, and holds no registers in between.
__device__ __forceinline__ int Recompute(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

__device__ __forceinline__ void Trap() { asm volatile("trap;"); }

// What the calling thread has written to shared memory becomes visible to wgmma, of whichever thread once a barrier is
// passed.
__device__ __forceinline__ void FenceProxyAsync() {
#if MOED_PTX_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before a product that reads registers which were written since the last one: by the four warps of a warpgroup, as all
// that follows.
__device__ __forceinline__ void WgmmaFence() {
#if MOED_PTX_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Makes one group of the products that were started since the last.
__device__ __forceinline__ void WgmmaCommit() {
#if MOED_PTX_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most N groups are under way.
template <int N>
__device__ __forceinline__ void WgmmaWait() {
#if MOED_PTX_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

// Keeps what reads `d` behind a wait that comes before: to the compiler a product is done where it is started.
template <int N>
__device__ __forceinline__ void WgmmaResults(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N>
__device__ __forceinline__ void WgmmaResults(int (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Describes columns of 128 bytes along k, each swizzled by its number: quad i of column j lies at place i ^ (j % 8).
// `b` lies in column 0, a multiple of 128 columns of which starts at a multiple of 1024 bytes, at its first k.
__device__ __forceinline__ uint64_t WgmmaDescriptor(const void* b) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightColumns = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;  // the distance of quads, which the swizzle settles
  return kSwizzle128 | kEightColumns | kUnused | (SharedAddress(b) & 0x3ffff) >> 4;
}

// Describes rows of 128 bytes, one for each k, each swizzled by its number: quad i of row k lies at place i ^ (k % 8).
// `b` is row 0, a multiple of 1024 bytes; columns beyond the first 128 bytes lie `distance` bytes further on.
__device__ __forceinline__ uint64_t WgmmaRowsDescriptor(const void* b, int distance) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(distance >> 4) << 16 | (SharedAddress(b) & 0x3ffff) >> 4;
}

// The operands' numbers in the text of a product, and the operands: all of d, a, b, and whether to add to what d holds.
#define MOED_PTX_D32                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define MOED_PTX_D64                                                                                            \
  MOED_PTX_D32                                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MOED_PTX_4(type, i) type(d[i]), type(d[i + 1]), type(d[i + 2]), type(d[i + 3])
#define MOED_PTX_16(type, i) \
  MOED_PTX_4(type, i), MOED_PTX_4(type, i + 4), MOED_PTX_4(type, i + 8), MOED_PTX_4(type, i + 12)
#define MOED_PTX_32(type, i) MOED_PTX_16(type, i), MOED_PTX_16(type, i + 16)
#define MOED_PTX_64(type, i) MOED_PTX_32(type, i), MOED_PTX_32(type, i + 32)
#define MOED_PTX_SOURCES \
  "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(WgmmaDescriptor(b)), "r"(static_cast<int>(accumulate))

// Starts d = a b, or d += a b: a [64, 16] of bf16 by rows, 16 of them in each warp's registers as for mma.m16n8k16; b
// [16, N] in shared memory by columns (WgmmaDescriptor); d [64, N], 16 rows in each warp, as many times mma's [16, 8].
// The registers stay as they are, d is not read, and b is not written until a wait.
template <int N>
__device__ __forceinline__ void WgmmaBf16(float (&d)[N / 2], const unsigned (&a)[4], const void* b, bool accumulate) {
#if MOED_PTX_WGMMA
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MOED_PTX_D32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, "
        "0;\n}"
        : MOED_PTX_32("+f", 0)
        : MOED_PTX_SOURCES);
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MOED_PTX_D64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, "
        "0;\n}"
        : MOED_PTX_64("+f", 0)
        : MOED_PTX_SOURCES);
  }
#endif
}

// The same with b [16, N] by rows (WgmmaRowsDescriptor).
template <int N>
__device__ __forceinline__ void WgmmaBf16ByRows(float (&d)[N / 2], const unsigned (&a)[4], const void* b, int distance,
                                                bool accumulate) {
#if MOED_PTX_WGMMA
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MOED_PTX_D32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, "
        "1;\n}"
        : MOED_PTX_32("+f", 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(WgmmaRowsDescriptor(b, distance)),
          "r"(static_cast<int>(accumulate)));
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MOED_PTX_D64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, "
        "1;\n}"
        : MOED_PTX_64("+f", 0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(WgmmaRowsDescriptor(b, distance)),
          "r"(static_cast<int>(accumulate)));
  }
#endif
}

// The same with a [64, 32] and b [32, N] of 8-bit integers; d in 32-bit ones.
template <int N>
__device__ __forceinline__ void WgmmaS8(int (&d)[N / 2], const unsigned (&a)[4], const void* b, bool accumulate) {
#if MOED_PTX_WGMMA
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" MOED_PTX_D32 "}, {%32, %33, %34, %35}, %36, p;\n}"
        : MOED_PTX_32("+r", 0)
        : MOED_PTX_SOURCES);
  } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" MOED_PTX_D64 "}, {%64, %65, %66, %67}, %68, p;\n}"
        : MOED_PTX_64("+r", 0)
        : MOED_PTX_SOURCES);
  }
#endif
}

#undef MOED_PTX_D32
#undef MOED_PTX_D64
#undef MOED_PTX_4
#undef MOED_PTX_16
#undef MOED_PTX_32
#undef MOED_PTX_64
#undef MOED_PTX_SOURCES

}  // namespace moed::kernels::ptx

#endif  // __CUDACC__

#endif  // KERNELS_COMMON_PTX_H_
