// The one header through which a .cu file sees CUDA. nvcc gets the real thing; a host compiler gets the same words from
// tests/support/simt (by -include), which runs the kernels on the CPU, thread for thread. Conventions for both:
//   MOED_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments…)   instead of <<<>>>; (kernel<A, B>) in brackets
//   MOED_LAUNCH_DEPENDENT(…)   the same for a kernel that starts with ptx::AwaitEarlierGrids(), and may thus be
//   launched
//     while the one before it in the stream still runs
//   MOED_SHARED(float, sums, [8]);  MOED_DYNAMIC_SHARED(float, tile);     instead of __shared__
//   PTX through the wrappers of kernels/common/ptx.h only
//   whole warps: blocks of a multiple of 32 threads, warps that leave early leave as a whole, masks name live lanes
//   only no waiting between blocks
#ifndef KERNELS_COMMON_CUDA_H_
#define KERNELS_COMMON_CUDA_H_

#include <cstddef>
#include <cstdint>

#include "tensor/cuda_stream.h"
#include "tensor/dtype.h"
#include "tensor/exec_context.h"

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define MOED_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::moed::kernels::Launch(#kernel, kernel, false, grid, block, shared_bytes, stream, __VA_ARGS__)
#define MOED_LAUNCH_DEPENDENT(kernel, grid, block, shared_bytes, stream, ...)                              \
  [&] {                                                                                                    \
    static const bool moed_awaits = ::moed::kernels::CanAwaitGrids(kernel);                                \
    ::moed::kernels::Launch(#kernel, kernel, moed_awaits, grid, block, shared_bytes, stream, __VA_ARGS__); \
  }()
#define MOED_SHARED(T, name, dims) __shared__ T name dims
#define MOED_DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(128) unsigned char moed_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(moed_dynamic_shared)

namespace moed::kernels {

// Closes `stream` when `error` tells that a launch was refused, or that an earlier one ended in a fault. Without a
// stream of ours (nullptr is CUDA's own) the program stops.
void CheckLaunch(const char* kernel, cudaError_t error, CudaStream* stream);

// Whether the kernel's machine code has the instruction that AwaitEarlierGrids() stands for: whether it was compiled
// for Hopper or what came after. (Code for older GPUs may run on newer ones, where the driver translates it.)
template <typename... Parameters>
bool CanAwaitGrids(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.ptxVersion >= 90;
  cudaGetLastError();
  return false;
}

// Does nothing where `stream` is closed. `awaits`: the kernel itself waits for what precedes it in the stream.
template <typename... Parameters, typename... Arguments>
void Launch(const char* name, void (*kernel)(Parameters...), bool awaits, dim3 grid, dim3 block, size_t shared_bytes,
            CudaStream* stream, const Arguments&... arguments) {
  if (stream != nullptr && !stream->is_open()) return;
  // More than this must be asked for by name.
  constexpr size_t kSharedBytesForAll = 48 * 1024;
  if (shared_bytes > kSharedBytesForAll) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return CheckLaunch(name, error, stream);
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream == nullptr ? nullptr : stream->handle());
  config.attrs = &overlap;
  config.numAttrs = awaits ? 1 : 0;
  CheckLaunch(name, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), stream);
}

}  // namespace moed::kernels

#elif !defined(MOED_SIMT)
#error "compile with nvcc, or with -include tests/support/simt/simt.h for the CPU"
#endif

namespace moed::kernels {

// Whether products of many rows are to run by warpgroups.
inline bool MayUseWgmma(const ExecContext& ctx) {
  if (ctx.batch_invariant) return false;
  if (ctx.wgmma.has_value()) return *ctx.wgmma;
  return ctx.stream != nullptr && ctx.stream->has_wgmma();
}

constexpr unsigned kAllLanes = 0xffffffffu;

// a / b rounded up, of numbers that are not negative.
template <typename T>
__host__ __device__ constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// Whether rows of floats that start at `data`, `strides` elements apart, can be read and written in fours.
template <typename... Strides>
bool InFours(const void* data, Strides... strides) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ((strides % 4 == 0) && ...);
}

// ------------------------------------------------------------------------- elements of tensors in global memory

__device__ __forceinline__ float LoadFloat(const float* p) { return *p; }
__device__ __forceinline__ float LoadFloat(const BFloat16* p) {
  return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(p));
}
__device__ __forceinline__ float LoadFloat(const int8_t* p) { return static_cast<float>(*p); }
__device__ __forceinline__ float LoadFloat(const Half* p) { return __half2float(*reinterpret_cast<const __half*>(p)); }

// Round to nearest even.
__device__ __forceinline__ void StoreFloat(float* p, float value) { *p = value; }
__device__ __forceinline__ void StoreFloat(BFloat16* p, float value) {
  *reinterpret_cast<__nv_bfloat16*>(p) = __float2bfloat16_rn(value);
}
__device__ __forceinline__ void StoreFloat(Half* p, float value) {
  *reinterpret_cast<__half*>(p) = __float2half_rn(value);
}

// Two floats as bf16, the first in the lower half.
__device__ __forceinline__ unsigned PackBf16(float lower, float upper) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(lower, upper);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// The same way, halves.
__device__ __forceinline__ float2 UnpackHalf(unsigned pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// Four floats at once, from and to addresses that are multiples of 16.
__device__ __forceinline__ float4 LoadFour(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void StoreFour(float* p, const float4& value) { *reinterpret_cast<float4*>(p) = value; }

// Two neighbours at once; the address is a multiple of their size.
__device__ __forceinline__ void StorePair(float* p, float first, float second) {
  *reinterpret_cast<float2*>(p) = make_float2(first, second);
}
__device__ __forceinline__ void StorePair(BFloat16* p, float first, float second) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(first, second);
}

// ------------------------------------------------------------------------- sums over threads, in one fixed order

// Every lane gets the sum over the warp.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// ------------------------------------------------------------- integers of eight bits, symmetric about zero, by warps

// The largest magnitude of row[0, count); NaN where there is an infinity or a NaN. Every lane gets it.
__device__ __forceinline__ float LargestMagnitude(const float* row, int count) {
  float largest = 0.0f;
  float poison = 0.0f;  // becomes NaN where there is an infinity or a NaN
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) {
    largest = fmaxf(largest, fabsf(row[i]));
    poison += row[i] * 0.0f;
  }
  return WarpMax(largest) + WarpSum(poison);
}

// What values are multiplied by so that the largest becomes 127. Where that is beyond the floats, the values are as
// good as zero; of a row that is not finite, the scale alone tells.
__device__ __forceinline__ float InverseScale(float largest) { return largest >= 1e-30f ? 127.0f / largest : 0.0f; }

// value * inverse to the nearest integer, to even where two are as near, in [-127, 127]; NaN gives some integer too.
__device__ __forceinline__ int8_t QuantizeToInt(float value, float inverse) {
  return static_cast<int8_t>(__float2int_rn(fmaxf(fminf(value * inverse, 127.0f), -127.0f)));
}

}  // namespace moed::kernels

#endif  // KERNELS_COMMON_CUDA_H_
