#include "kernels/common/cuda.h"
#include "kernels/common/ptx.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/operands_cuda.h"

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

// The outputs of a packed weight as rows of a table.
struct PackedTable {
  const char* data;
  WeightFormat::Type type;
  int group_size;
  PanelLayout layout;

  __device__ __forceinline__ float At(int32_t id, int64_t i) const {
    const char* panel = data + id / kPanelOutputs * layout.panel_bytes;
    const int lane = id % kPanelOutputs;
    if (type == WeightFormat::Type::kF32)
      return LoadFloat(reinterpret_cast<const float*>(panel) + i * kPanelOutputs + lane);
    if (type == WeightFormat::Type::kBF16) {
      return LoadFloat(reinterpret_cast<const BFloat16*>(panel) + (i / 2 * kPanelOutputs + lane) * 2 + i % 2);
    }
    const int group = static_cast<int>(i / group_size), at = static_cast<int>(i % group_size);
    float scale[1];
    LoadWeightScales(panel, layout, group, lane, scale);
    const auto* bytes = reinterpret_cast<const uint8_t*>(panel + group * layout.group_bytes) + lane * 4;
    int integer;
    if (type == WeightFormat::Type::kInt8) {
      integer = bytes[at / 4 * kLineBytes + at % 4] - 128;
    } else {
      const int pair = bytes[at / 8 * kLineBytes + at % 4];
      integer = (at % 8 < 4 ? pair & 15 : pair >> 4) - 8;
    }
    return static_cast<float>(integer) * (scale[0] * PackedWeight::kScaleUnit);
  }
};

// A block a token.
__global__ void __launch_bounds__(kThreads) PackedEmbeddingKernel(const int32_t* ids, PackedTable table, float scale,
                                                                  int64_t hidden, float* out, int64_t out_stride) {
  float* out_row = out + blockIdx.x * out_stride;
  for (int64_t i = threadIdx.x; i < hidden; i += kThreads) out_row[i] = table.At(ids[blockIdx.x], i) * scale;
}

void GatherPacked(const ExecContext& ctx, const EmbeddingArgs& args) {
  const auto num_tokens = static_cast<unsigned>(args.ids.dim(0));
  if (num_tokens == 0) return;
  const WeightFormat format = args.packed.format;
  const PackedTable table{static_cast<const char*>(args.packed.data), format.type, format.group_size,
                          PanelLayout(format, args.packed.k)};
  MOED_LAUNCH(PackedEmbeddingKernel, num_tokens, kThreads, 0, ctx.stream, args.ids.As<int32_t>(), table, args.scale,
              args.packed.k, args.out.As<float>(), args.out.stride(0));
}

}  // namespace

namespace cuda {

void Embedding(const ExecContext& ctx, const EmbeddingArgs& args) {
  if (args.packed.data != nullptr) return GatherPacked(ctx, args);
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
