#include "kernels/paged_attention/paged_attention.h"

#include "kernels/common/check.h"
#include "kernels/common/cpu_dispatch.h"

namespace moed::kernels {
namespace {

// That row (block, head, position) lies row stride x ((block * heads + head) * block_size + position) from the first.
absl::Status CheckRowsAtEqualDistances(std::string_view name, const TensorView& pages) {
  const int64_t row = pages.stride(2), head = pages.dim(2) * row, block = pages.dim(1) * head;
  const bool equal = row >= pages.dim(3) && (pages.dim(1) <= 1 || pages.stride(1) == head) &&
                     (pages.dim(0) <= 1 || pages.stride(0) == block);
  if (equal) return absl::OkStatus();
  return InvalidArgument("{} {} has strides of {}, {} and {}; all its rows must lie at equal distances", name,
                         pages.ToString(), pages.stride(0), pages.stride(1), row);
}

absl::Status CheckShapes(const PagedAttentionArgs& args) {
  MOED_RETURN_IF_ERROR(CheckTensor("q", args.q, {DType::kF32}, {kAnySize, kAnySize, kAnySize}));
  MOED_RETURN_IF_ERROR(CheckTensor("k_pages", args.k_pages, {DType::kF32, DType::kBF16, DType::kF16, DType::kI8},
                                   {kAnySize, kAnySize, kAnySize, args.q.dim(2)}));
  MOED_RETURN_IF_ERROR(CheckContiguous("k_pages", args.k_pages));
  MOED_RETURN_IF_ERROR(CheckKeyLayout(args.k_pages, args.v_pages, args.key_layout));
  const int64_t num_kv_heads = args.k_pages.dim(1);
  MOED_RETURN_IF_ERROR(CheckTensor("v_pages", args.v_pages, {args.k_pages.dtype},
                                   {args.k_pages.dim(0), num_kv_heads, args.k_pages.dim(2), kAnySize}));
  MOED_RETURN_IF_ERROR(CheckRowsAtEqualDistances("v_pages", args.v_pages));
  MOED_RETURN_IF_ERROR(CheckScales("k_scales", args.k_scales, args.k_pages));
  MOED_RETURN_IF_ERROR(CheckScales("v_scales", args.v_scales, args.v_pages));
  const int64_t num_heads = args.q.dim(1);
  if (num_heads == 0 || args.q.dim(2) == 0) {
    return InvalidArgument("q is {}; it must have heads of one element or more", args.q.ToString());
  }
  if (num_kv_heads == 0 || num_heads % num_kv_heads != 0) {
    return InvalidArgument("q has {} heads; they must be a multiple of the {} of k_pages", num_heads, num_kv_heads);
  }
  if (args.k_pages.dim(2) == 0) return InvalidArgument("k_pages is {}; a block has positions", args.k_pages.ToString());
  MOED_RETURN_IF_ERROR(CheckTensor("out", args.out, {DType::kF32}, {args.q.dim(0), num_heads * args.v_pages.dim(3)}));
  MOED_RETURN_IF_ERROR(CheckTensor("context_lens", args.context_lens, {DType::kI32}, {kAnySize}));
  const int64_t num_sequences = args.context_lens.dim(0);
  MOED_RETURN_IF_ERROR(CheckTensor("query_starts", args.query_starts, {DType::kI32}, {num_sequences + 1}));
  MOED_RETURN_IF_ERROR(CheckTensor("block_starts", args.block_starts, {DType::kI32}, {num_sequences + 1}));
  MOED_RETURN_IF_ERROR(CheckTensor("block_ids", args.block_ids, {DType::kI32}, {kAnySize}));
  if (!args.sinks.empty()) MOED_RETURN_IF_ERROR(CheckTensor("sinks", args.sinks, {DType::kF32}, {num_heads}));
  if (args.window < 0) return InvalidArgument("window is {}; it must be positive, or 0 for all", args.window);
  return absl::OkStatus();
}

absl::Status CheckSequence(const PagedAttentionArgs& args, int64_t sequence) {
  const int32_t* query_starts = args.query_starts.As<int32_t>();
  const int32_t* block_starts = args.block_starts.As<int32_t>();
  const int64_t num_queries = static_cast<int64_t>(query_starts[sequence + 1]) - query_starts[sequence];
  const int64_t num_blocks = static_cast<int64_t>(block_starts[sequence + 1]) - block_starts[sequence];
  const int64_t context = args.context_lens.As<int32_t>()[sequence];
  if (num_queries < 0 || num_blocks < 0) {
    return InvalidArgument("sequence {} has {} tokens and {} blocks; the starts must not fall", sequence, num_queries,
                           num_blocks);
  }
  if (context < num_queries) {
    return InvalidArgument("context_lens[{}] is {}; it must count the sequence's {} tokens of this step", sequence,
                           context, num_queries);
  }
  if (args.max_context > 0 && context > args.max_context) {
    return InvalidArgument("context_lens[{}] is {}; max_context = {} must not be below it", sequence, context,
                           args.max_context);
  }
  const int64_t block_size = args.k_pages.dim(2);
  if (num_queries > 0 && num_blocks * block_size < context) {
    return InvalidArgument("sequence {} has {} blocks of {}; they must hold its {} positions", sequence, num_blocks,
                           block_size, context);
  }
  if (num_queries == 0) return absl::OkStatus();
  const int64_t first = args.window == 0 ? 0 : std::max<int64_t>(0, context - num_queries + 1 - args.window);
  for (int64_t i = first / block_size; i * block_size < context; ++i) {
    const int32_t id = args.block_ids.As<int32_t>()[block_starts[sequence] + i];
    if (id < 0 || id >= args.k_pages.dim(0)) {
      return InvalidArgument("block {} of sequence {} is {}; it must be in [0, {})", i, sequence, id,
                             args.k_pages.dim(0));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Check(const PagedAttentionArgs& args) {
  MOED_RETURN_IF_ERROR(CheckShapes(args));
  if (args.query_starts.device.type != DeviceType::kCpu) return absl::OkStatus();
  const int64_t num_sequences = args.context_lens.dim(0);
  const int32_t first_query = args.query_starts.As<int32_t>()[0];
  const int32_t last_query = args.query_starts.As<int32_t>()[num_sequences];
  if (first_query < 0 || last_query > args.q.dim(0)) {
    return InvalidArgument("query_starts run from {} to {}; q has {} tokens", first_query, last_query, args.q.dim(0));
  }
  const int32_t first_block = args.block_starts.As<int32_t>()[0];
  const int32_t last_block = args.block_starts.As<int32_t>()[num_sequences];
  if (first_block < 0 || last_block > args.block_ids.dim(0)) {
    return InvalidArgument("block_starts run from {} to {}; block_ids has {}", first_block, last_block,
                           args.block_ids.dim(0));
  }
  for (int64_t sequence = 0; sequence < num_sequences; ++sequence) {
    MOED_RETURN_IF_ERROR(CheckSequence(args, sequence));
  }
  return absl::OkStatus();
}

namespace cpu {
namespace {

// Whether instruction sets with 8-bit dot products multiply the pages' integers as they are
// (paged_attention_integers.h).
bool TakesByteDots(const PagedAttentionArgs& args) {
  return args.k_pages.dtype == DType::kI8 && args.key_layout == KeyLayout::kWords && args.v_pages.dim(3) % 4 == 0;
}

}  // namespace

MOED_DEFINE_CPU_BYTE_DOT_DISPATCH(PagedAttention, TakesByteDots)
}  // namespace cpu

}  // namespace moed::kernels
