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

// What cuBLAS is told of a product: constants of cublas_api.h and library_types.h.
struct ProductTypes {
  int input, output, compute;
  size_t input_bytes, output_bytes;
};
constexpr ProductTypes kBf16Product = {.input = 14, .output = 14, .compute = 68, .input_bytes = 2, .output_bytes = 2};
constexpr ProductTypes kInt8Product = {.input = 3, .output = 10, .compute = 72, .input_bytes = 1, .output_bytes = 4};

// `count` random numbers, integers of all values or bf16 in [1, 2): zeros would take less power, and so flatter the
// clock.
absl::StatusOr<Buffer> RandomMatrix(int64_t count, const ProductTypes& types, Device device) {
  MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(count * types.input_bytes));
  std::mt19937 random(1);
  if (types.input_bytes == 1) {
    auto* const values = static_cast<int8_t*>(host.data());
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int8_t>(random());
  } else {
    auto* const values = static_cast<uint16_t*>(host.data());
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<uint16_t>(0x3f80 | (random() & 0x7f));
  }
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

absl::StatusOr<double> CublasOperations(const ExecContext& ctx, WeightFormat format) {
  constexpr int kSize = 8192, kProducts = 4;
  constexpr int kTransposed = 1, kPlain = 0, kDefaultAlgorithm = -1;
  const ProductTypes& types = format.is_integer() ? kInt8Product : kBf16Product;
  MOED_ASSIGN_OR_RETURN(const Cublas cublas, Cublas::Open());
  constexpr int64_t kCount = int64_t{kSize} * kSize;
  MOED_ASSIGN_OR_RETURN(const Buffer a, RandomMatrix(kCount, types, ctx.device));
  MOED_ASSIGN_OR_RETURN(const Buffer b, RandomMatrix(kCount, types, ctx.device));
  MOED_ASSIGN_OR_RETURN(const Buffer c, Buffer::Allocate(kCount * types.output_bytes, ctx.device));
  Cublas::Handle handle = nullptr;
  if (cublas.create(&handle) != 0) return Internal("cuBLAS does not start");
  int failed = cublas.set_stream(handle, ctx.stream->handle());
  const float one_float = 1.0f, zero_float = 0.0f;
  const int32_t one_int = 1, zero_int = 0;
  const void* const one = format.is_integer() ? static_cast<const void*>(&one_int) : &one_float;
  const void* const zero = format.is_integer() ? static_cast<const void*>(&zero_int) : &zero_float;
  const auto seconds = ShortestSeconds(ctx.stream, [&] {
    for (int i = 0; i < kProducts; ++i) {
      failed |=
          cublas.gemm_ex(handle, kTransposed, kPlain, kSize, kSize, kSize, one, a.data(), types.input, kSize, b.data(),
                         types.input, kSize, zero, c.data(), types.output, kSize, types.compute, kDefaultAlgorithm);
    }
  });
  cublas.destroy(handle);
  if (failed != 0) return Internal("cuBLAS cannot multiply: status {}", failed);
  MOED_RETURN_IF_ERROR(seconds.status());
  return 2.0 * kSize * kSize * kSize * kProducts / *seconds;
}

}  // namespace moed::kernels
