#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/machine_peaks/machine_peaks.h"
#include "tensor/buffer.h"

namespace moed::kernels {
namespace {

constexpr int kSamples = 5;

// The shortest of a few runs of what `enqueue` sends to the stream, in seconds.
template <typename Enqueue>
absl::StatusOr<double> ShortestSeconds(CudaStream* stream, const Enqueue& enqueue) {
  double shortest = 1e300;
  for (int i = 0; i <= kSamples; ++i) {  // the first warms up
    MOED_RETURN_IF_ERROR(stream->Synchronize());
    const auto start = std::chrono::steady_clock::now();
    enqueue();
    MOED_RETURN_IF_ERROR(stream->Synchronize());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (i > 0) shortest = std::min(shortest, seconds.count());
  }
  return shortest;
}

// What is used of cuBLAS, found where the machine has it: the program does without it.
struct Cublas {
  using Handle = void*;
  int (*create)(Handle*) = nullptr;
  int (*destroy)(Handle) = nullptr;
  int (*set_stream)(Handle, void*) = nullptr;
  int (*gemm_ex)(Handle, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int,
                 const void*, void*, int, int, int, int) = nullptr;

  static absl::StatusOr<Cublas> Open() {
    void* library = nullptr;
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) return NotFound("cuBLAS is not on this machine: {}", dlerror());
    Cublas found;
    found.create = reinterpret_cast<decltype(create)>(dlsym(library, "cublasCreate_v2"));
    found.destroy = reinterpret_cast<decltype(destroy)>(dlsym(library, "cublasDestroy_v2"));
    found.set_stream = reinterpret_cast<decltype(set_stream)>(dlsym(library, "cublasSetStream_v2"));
    found.gemm_ex = reinterpret_cast<decltype(gemm_ex)>(dlsym(library, "cublasGemmEx"));
    if (found.create == nullptr || found.destroy == nullptr || found.set_stream == nullptr ||
        found.gemm_ex == nullptr) {
      return NotFound("this cuBLAS lacks functions that are needed");
    }
    return found;
  }
};

// `count` random bf16 numbers in [1, 2): zeros would take less power, and so flatter the clock.
absl::StatusOr<Buffer> RandomMatrix(int64_t count, Device device) {
  MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(count * sizeof(uint16_t)));
  std::mt19937 random(1);
  auto* const values = static_cast<uint16_t*>(host.data());
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<uint16_t>(0x3f80 | (random() & 0x7f));
  return Buffer::MoveTo(std::move(host), device);
}

}  // namespace

absl::StatusOr<double> CudaCopyBandwidth(const ExecContext& ctx) {
  constexpr size_t kBytes = size_t{512} << 20;
  MOED_ASSIGN_OR_RETURN(const Buffer from, Buffer::Allocate(kBytes, ctx.device));
  MOED_ASSIGN_OR_RETURN(const Buffer to, Buffer::Allocate(kBytes, ctx.device));
  constexpr int kCopies = 8;
  MOED_ASSIGN_OR_RETURN(const double seconds, ShortestSeconds(ctx.stream, [&] {
                          for (int i = 0; i < kCopies; ++i) ctx.stream->Copy(to.data(), from.data(), kBytes);
                        }));
  return 2.0 * kBytes * kCopies / seconds;
}

absl::StatusOr<double> CublasOperations(const ExecContext& ctx) {
  constexpr int kSize = 8192, kProducts = 4;
  // Of cublas_api.h and library_types.h.
  constexpr int kTransposed = 1, kPlain = 0, kBf16 = 14, kCompute32F = 68, kDefaultAlgorithm = -1;
  MOED_ASSIGN_OR_RETURN(const Cublas cublas, Cublas::Open());
  MOED_ASSIGN_OR_RETURN(const Buffer a, RandomMatrix(int64_t{kSize} * kSize, ctx.device));
  MOED_ASSIGN_OR_RETURN(const Buffer b, RandomMatrix(int64_t{kSize} * kSize, ctx.device));
  MOED_ASSIGN_OR_RETURN(const Buffer c, Buffer::Allocate(a.size(), ctx.device));
  Cublas::Handle handle = nullptr;
  if (cublas.create(&handle) != 0) return Internal("cuBLAS does not start");
  int failed = cublas.set_stream(handle, ctx.stream->handle());
  const float one = 1.0f, zero = 0.0f;
  const auto seconds = ShortestSeconds(ctx.stream, [&] {
    for (int i = 0; i < kProducts; ++i) {
      failed |= cublas.gemm_ex(handle, kTransposed, kPlain, kSize, kSize, kSize, &one, a.data(), kBf16, kSize, b.data(),
                               kBf16, kSize, &zero, c.data(), kBf16, kSize, kCompute32F, kDefaultAlgorithm);
    }
  });
  cublas.destroy(handle);
  if (failed != 0) return Internal("cuBLAS cannot multiply: status {}", failed);
  MOED_RETURN_IF_ERROR(seconds.status());
  return 2.0 * kSize * kSize * kSize * kProducts / *seconds;
}

}  // namespace moed::kernels
