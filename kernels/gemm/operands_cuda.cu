#include "kernels/gemm/operands_cuda.h"

namespace moed::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
// Inputs of a step of integers.
constexpr int kInt8Inputs = kStepBytes;

// [rows, heads, k] with any strides of the first two dimensions.
struct Source {
  const float* data;
  int64_t row_stride, head_stride;
  int heads, k;
  bool in_fours;

  __device__ __forceinline__ const float* Row(int64_t i) const {
    return data + i / heads * row_stride + i % heads * head_stride;
  }
};

Source SourceOf(const TensorView& x) {
  Source source = {x.As<float>(), x.stride(0), 0, 1, static_cast<int>(x.dim(x.rank - 1)), false};
  if (x.rank == 3) {
    source.head_stride = x.stride(1);
    source.heads = static_cast<int>(x.dim(1));
  }
  source.in_fours = InFours(source.data, source.row_stride, source.head_stride);
  return source;
}

// Grid: rows, pieces of them: [padded] bf16, of which a thread has four.
__global__ void __launch_bounds__(kThreads) RoundRowsKernel(Source x, int padded, BFloat16* rows) {
  ptx::AwaitEarlierGrids();
  const float* row = x.Row(blockIdx.x);
  BFloat16* to = rows + static_cast<int64_t>(blockIdx.x) * padded;
  const int first = (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x)) * 4;
  if (first >= padded) return;
  float values[4];
  if (x.in_fours && first + 4 <= x.k) {
    const float4 quad = LoadFour(row + first);
    values[0] = quad.x, values[1] = quad.y, values[2] = quad.z, values[3] = quad.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = first + i < x.k ? row[first + i] : 0.0f;
  }
  *reinterpret_cast<uint2*>(to + first) = make_uint2(PackBf16(values[0], values[1]), PackBf16(values[2], values[3]));
}

struct QuantizeParameters {
  Source x;
  int num_groups, group_size, padded_group;
  float unit;     // of the weights' scales
  int8_t* rows;   // [rows, num_groups, padded_group]
  float* scales;  // [rows, num_groups]
};

// A warp a group of a row.
__global__ void __launch_bounds__(kThreads) QuantizeRowsKernel(QuantizeParameters p, int64_t num_row_groups) {
  ptx::AwaitEarlierGrids();
  const int64_t row_group = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row_group >= num_row_groups) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(row_group % p.num_groups);
  const int first = group * p.group_size;
  const int count = min(p.group_size, p.x.k - first);
  const float* from = p.x.Row(row_group / p.num_groups) + first;
  const float largest = LargestMagnitude(from, count);
  const float inverse = InverseScale(largest);
  int8_t* to = p.rows + row_group * p.padded_group;
  for (int i = lane; i < p.padded_group; i += 32) {
    to[i] = QuantizeToInt(i < count ? from[i] : 0.0f, inverse);
  }
  if (lane == 0) p.scales[row_group] = largest * (p.unit / 127.0f);
}

OperandRows Quantize(const ExecContext& ctx, const Source& x, int64_t num_rows, WeightFormat format) {
  const PanelLayout layout(format, x.k);
  QuantizeParameters p;
  p.x = x;
  p.num_groups = layout.num_groups;
  p.group_size = format.group_size;
  p.padded_group = layout.steps_per_group * kInt8Inputs;
  p.unit = PackedWeight::kScaleUnit / (format.type == WeightFormat::Type::kInt4 ? 16.0f : 1.0f);
  const int64_t num_row_groups = num_rows * p.num_groups;
  p.rows = static_cast<int8_t*>(ctx.workspace->Allocate(static_cast<size_t>(num_row_groups * p.padded_group)));
  p.scales = static_cast<float*>(ctx.workspace->Allocate(static_cast<size_t>(num_row_groups) * sizeof(float)));
  if (num_row_groups > 0) {
    const auto blocks = static_cast<unsigned>(CeilDiv(num_row_groups, int64_t{kWarps}));
    MOED_LAUNCH_DEPENDENT(QuantizeRowsKernel, blocks, kThreads, 0, ctx.stream, p, num_row_groups);
  }
  const int64_t row_bytes = int64_t{p.num_groups} * p.padded_group;
  return {.data = reinterpret_cast<const char*>(p.rows),
          .row_bytes = x.heads * row_bytes,
          .head_bytes = row_bytes,
          .scales = p.scales,
          .row_scales = int64_t{x.heads} * p.num_groups,
          .head_scales = p.num_groups};
}

}  // namespace

PanelLayout::PanelLayout(WeightFormat format, int64_t k) {
  if (format.type == WeightFormat::Type::kF32) {
    panel_bytes = k * kLineBytes;
    return;
  }
  if (format.type == WeightFormat::Type::kBF16) {
    const int64_t lines = (k + 1) / 2;
    steps_per_group = kBf16GroupSteps;
    lines_per_group = kBf16GroupSteps * Bf16Words::kLinesPerStep;
    num_groups = static_cast<int>(CeilDiv(lines, int64_t{lines_per_group}));
    lines_in_last_group = static_cast<int>(lines - int64_t{num_groups - 1} * lines_per_group);
    group_bytes = lines_per_group * kLineBytes;
    panel_bytes = lines * kLineBytes;
    return;
  }
  const IntegerLayout layout(format);
  num_groups = static_cast<int>(layout.NumGroups(k));
  steps_per_group = CeilDiv(format.group_size, kInt8Inputs);
  lines_per_group = static_cast<int>(layout.DataBytes(format.group_size) / kLineBytes);
  lines_in_last_group = static_cast<int>(layout.DataBytes(layout.GroupInputs(k, num_groups - 1)) / kLineBytes);
  group_bytes = layout.GroupOffset(1);
  panel_bytes = layout.PanelBytes(k);
}

int64_t PreparedRowBytes(WeightFormat format, int64_t k) {
  if (format.type == WeightFormat::Type::kF32) return k * static_cast<int64_t>(sizeof(float));
  const PanelLayout layout(format, k);
  return int64_t{layout.num_groups} * layout.steps_per_group * kStepBytes;
}

OperandRows FloatRows(const TensorView& x) {
  const Source source = SourceOf(x);
  return {.data = x.As<char>(),
          .row_bytes = source.row_stride * static_cast<int64_t>(sizeof(float)),
          .head_bytes = source.head_stride * static_cast<int64_t>(sizeof(float))};
}

bool CanRoundWhileReading(const TensorView& x, WeightFormat format) {
  const Source source = SourceOf(x);
  return format.type == WeightFormat::Type::kBF16 && source.in_fours && source.k % 4 == 0;
}

OperandRows PrepareRows(const ExecContext& ctx, const TensorView& x, WeightFormat format) {
  const Source source = SourceOf(x);
  const int64_t num_rows = x.dim(0) * source.heads;
  if (format.is_integer()) return Quantize(ctx, source, num_rows, format);
  if (format.type == WeightFormat::Type::kF32) return FloatRows(x);
  const int64_t row_bytes = PreparedRowBytes(format, source.k);
  auto* const rows = static_cast<BFloat16*>(ctx.workspace->Allocate(static_cast<size_t>(num_rows * row_bytes)));
  if (num_rows > 0) {
    const int padded = static_cast<int>(row_bytes / 2);
    const dim3 grid(static_cast<unsigned>(num_rows), static_cast<unsigned>(CeilDiv(padded, kThreads * 4)));
    MOED_LAUNCH_DEPENDENT(RoundRowsKernel, grid, kThreads, 0, ctx.stream, source, padded, rows);
  }
  return {.data = reinterpret_cast<const char*>(rows), .row_bytes = source.heads * row_bytes, .head_bytes = row_bytes};
}

}  // namespace moed::kernels
