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

}  // namespace moed::kernels::ptx

#endif  // __CUDACC__

#endif  // KERNELS_COMMON_PTX_H_
