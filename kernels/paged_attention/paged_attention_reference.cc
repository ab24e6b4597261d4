#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common/reference.h"
#include "kernels/paged_attention/paged_attention.h"

namespace moed::kernels::reference {
namespace {

double Read(const TensorView& pages, const TensorView& scales, int64_t block, int64_t head, int64_t position,
            int64_t i) {
  if (pages.dtype != DType::kI8) return ReadFloat(pages, block, head, position, i);
  return static_cast<double>(At<int8_t>(pages, block, head, position, i)) * At<float>(scales, block, head, position);
}

double ReadKey(const PagedAttentionArgs& args, int64_t block, int64_t head, int64_t position, int64_t i) {
  const KeyPlace place = PlaceOfKey(args.k_pages, args.key_layout, position, i);
  if (args.k_pages.dtype != DType::kI8) return ReadFloat(args.k_pages, block, head, place.position, place.i);
  return static_cast<double>(At<int8_t>(args.k_pages, block, head, place.position, place.i)) *
         At<float>(args.k_scales, block, head, position);
}

// One head of one token, which sees positions [first, end) of its sequence.
void Attend(const PagedAttentionArgs& args, const int32_t* block_ids, int64_t token, int64_t head, int64_t first,
            int64_t end) {
  const int64_t num_heads = args.q.dim(1);
  const int64_t block_size = args.k_pages.dim(2);
  const int64_t kv_head = head / (num_heads / args.k_pages.dim(1));
  std::vector<double> weights;
  double largest = args.sinks.empty() ? -INFINITY : At<float>(args.sinks, head);
  for (int64_t position = first; position < end; ++position) {
    const int32_t block = block_ids[position / block_size];
    double dot = 0;
    for (int64_t i = 0; i < args.q.dim(2); ++i) {
      dot += static_cast<double>(At<float>(args.q, token, head, i)) *
             ReadKey(args, block, kv_head, position % block_size, i);
    }
    weights.push_back(dot * args.scale);
    largest = std::max(largest, weights.back());
  }
  double sum = args.sinks.empty() ? 0.0 : std::exp(At<float>(args.sinks, head) - largest);
  for (double& weight : weights) {
    weight = std::exp(weight - largest);
    sum += weight;
  }
  const int64_t v_head_dim = args.v_pages.dim(3);
  for (int64_t i = 0; i < v_head_dim; ++i) {
    double value = 0;
    for (int64_t position = first; position < end; ++position) {
      const int32_t block = block_ids[position / block_size];
      value += weights[position - first] * Read(args.v_pages, args.v_scales, block, kv_head, position % block_size, i);
    }
    At<float>(args.out, token, head * v_head_dim + i) = static_cast<float>(value / sum);
  }
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args) {
  for (int64_t sequence = 0; sequence < args.context_lens.dim(0); ++sequence) {
    const int64_t query_end = args.query_starts.As<int32_t>()[sequence + 1];
    const int32_t* block_ids = args.block_ids.As<int32_t>() + args.block_starts.As<int32_t>()[sequence];
    for (int64_t token = args.query_starts.As<int32_t>()[sequence]; token < query_end; ++token) {
      const int64_t end = args.context_lens.As<int32_t>()[sequence] - (query_end - 1 - token);
      const int64_t first = args.window == 0 ? 0 : std::max<int64_t>(0, end - args.window);
      for (int64_t head = 0; head < args.q.dim(1); ++head) Attend(args, block_ids, token, head, first, end);
    }
  }
}

}  // namespace moed::kernels::reference
