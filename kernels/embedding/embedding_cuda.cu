#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/embedding/embedding.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 256;

// A block a token.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    EmbeddingKernel(const int32_t* ids, const T* table, int64_t table_stride, float scale, int64_t hidden, float* out,
                    int64_t out_stride) {
  ptx::AwaitEarlierGrids();
  const T* row = table + ids[blockIdx.x] * table_stride;
  float* out_row = out + blockIdx.x * out_stride;
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) out_row[i] = LoadFloat(row + i) * scale;
}

template <typename T>
void Gather(const ExecContext& ctx, const EmbeddingArgs& args) {
  const auto num_tokens = static_cast<unsigned>(args.ids.dim(0));
  if (num_tokens == 0) return;
  MOED_LAUNCH_DEPENDENT(EmbeddingKernel<T>, num_tokens, kThreads, 0, ctx.stream, args.ids.As<int32_t>(),
                        args.table.As<T>(), args.table.stride(0), args.scale, args.table.dim(1), args.out.As<float>(),
                        args.out.stride(0));
}

}  // namespace

namespace cuda {

void Embedding(const ExecContext& ctx, const EmbeddingArgs& args) {
  switch (args.table.dtype) {
    case DType::kBF16:
      return Gather<BFloat16>(ctx, args);
    case DType::kF16:
      return Gather<Half>(ctx, args);
    default:
      return Gather<float>(ctx, args);
  }
}

}  // namespace cuda
}  // namespace moed::kernels
