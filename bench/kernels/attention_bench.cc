// Paged attention over a cache that comes from memory: decode is bound by reading keys and values, prefill by
// arithmetic.
#include "kernels/paged_attention/paged_attention.h"

#include <numeric>
#include <random>

#include "bench/kernels/bench_support.h"

namespace moed::bench {
namespace {

struct Layer {
  int64_t num_heads, num_kv_heads, k_head_dim, v_head_dim;
  bool v_in_k = false;
};
constexpr Layer kSmall = {16, 4, 64, 64};
constexpr Layer kOlmoe = {16, 16, 128, 128};
constexpr Layer kQwen3Moe = {32, 4, 128, 128};
constexpr Layer kQwen3Moe235b = {64, 4, 128, 128};
// The absorbed form of MLA: all heads over one latent of 512 with a rotary key of 64.
constexpr Layer kDeepseekV2Lite = {16, 1, 576, 512, true};
constexpr Layer kDeepseekV3 = {128, 1, 576, 512, true};

// Sequences that each have `context` positions and bring `num_queries` tokens, their blocks anywhere in memory.
class Batch {
 public:
  Batch(const Layer& layer, DType dtype, int64_t num_sequences, int64_t num_queries, int64_t context)
      : layer_(layer), dtype_(dtype), num_queries_(num_queries), context_(context) {
    const int64_t num_tokens = num_sequences * num_queries;
    const int64_t blocks_of_one = (context + kBlockSize - 1) / kBlockSize;
    q_.assign(num_tokens * layer.num_heads * layer.k_head_dim, 0.01f);
    out_.resize(num_tokens * layer.num_heads * layer.v_head_dim);
    context_lens_.assign(num_sequences, static_cast<int32_t>(context));
    for (int64_t s = 0; s <= num_sequences; ++s) {
      query_starts_.push_back(static_cast<int32_t>(s * num_queries));
      block_starts_.push_back(static_cast<int32_t>(s * blocks_of_one));
    }
    block_ids_.resize(num_sequences * blocks_of_one);
    std::iota(block_ids_.begin(), block_ids_.end(), 0);
    std::shuffle(block_ids_.begin(), block_ids_.end(), std::mt19937(1));
  }

  // The arguments over pages that start anew in the machine's memory.
  kernels::PagedAttentionArgs Next(Machine* machine) {
    const auto num_blocks = static_cast<int64_t>(block_ids_.size()), heads = layer_.num_kv_heads;
    const auto pages = [&](int64_t dim) {
      return TensorView(machine->NextBytes(num_blocks * heads * kBlockSize * dim * DTypeSize(dtype_)),
                        {num_blocks, heads, kBlockSize, dim}, dtype_);
    };
    kernels::PagedAttentionArgs args;
    args.q = TensorView::Of(q_.data(), {num_tokens(), layer_.num_heads, layer_.k_head_dim});
    args.k_pages = pages(layer_.k_head_dim);
    args.v_pages = layer_.v_in_k ? args.k_pages.Columns(0, layer_.v_head_dim) : pages(layer_.v_head_dim);
    if (dtype_ == DType::kI8) {
      args.k_scales = TensorView(machine->NextBytes(num_blocks * heads * kBlockSize * 4),
                                 {num_blocks, heads, kBlockSize}, DType::kF32);
      args.v_scales = TensorView(machine->NextBytes(num_blocks * heads * kBlockSize * 4),
                                 {num_blocks, heads, kBlockSize}, DType::kF32);
    }
    // As the engine lays them out.
    if (!layer_.v_in_k) args.key_layout = kernels::KeyLayout::kWords;
    args.query_starts = TensorView::Of(query_starts_.data(), {num_sequences() + 1});
    args.context_lens = TensorView::Of(context_lens_.data(), {num_sequences()});
    args.block_starts = TensorView::Of(block_starts_.data(), {num_sequences() + 1});
    args.block_ids = TensorView::Of(block_ids_.data(), {num_blocks});
    args.scale = 0.1f;
    args.out = TensorView(out_.data(), {num_tokens(), layer_.num_heads * layer_.v_head_dim}, DType::kF32);
    return args;
  }

  // Multiplications and additions for the scores and for the weighted values.
  double Operations() const {
    const double seen_by_one = static_cast<double>(context_) - (static_cast<double>(num_queries_) - 1) / 2;
    return 2.0 * static_cast<double>(num_tokens() * layer_.num_heads * (layer_.k_head_dim + layer_.v_head_dim)) *
           seen_by_one;
  }
  // Of keys and values, each read once.
  double CacheBytes() const {
    const int64_t rows_of_one = layer_.v_in_k ? 1 : 2;  // a key, or a key and a value
    const int64_t elements = layer_.k_head_dim + (layer_.v_in_k ? 0 : layer_.v_head_dim);
    const int64_t scale_bytes = dtype_ == DType::kI8 ? 4 * rows_of_one : 0;
    return static_cast<double>(num_sequences() * context_ * layer_.num_kv_heads *
                               (elements * static_cast<int64_t>(DTypeSize(dtype_)) + scale_bytes));
  }

 private:
  static constexpr int64_t kBlockSize = 16;

  int64_t num_sequences() const { return static_cast<int64_t>(context_lens_.size()); }
  int64_t num_tokens() const { return num_sequences() * num_queries_; }

  const Layer layer_;
  const DType dtype_;
  const int64_t num_queries_, context_;
  std::vector<float> q_, out_;
  std::vector<int32_t> query_starts_, context_lens_, block_starts_, block_ids_;
};

void Run(benchmark::State& state, Batch batch) {
  Machine& machine = Machine::Get();
  Measure(state, kernels::WeightFormat::F32(), batch.Operations(), batch.CacheBytes(),
          [&] { kernels::cpu::PagedAttention(machine.context(), batch.Next(&machine)); });
}

// One token of each sequence.
void BM_Decode(benchmark::State& state, const Layer& layer, DType dtype) {
  Run(state, Batch(layer, dtype, state.range(0), 1, state.range(1)));
}

// A whole prompt, or its last chunk.
void BM_Prefill(benchmark::State& state, const Layer& layer, DType dtype) {
  Run(state, Batch(layer, dtype, 1, state.range(0), state.range(1)));
}

void DecodeShapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"sequences", "context"})->UseManualTime()->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  for (int context : {512, 4096, 32768}) benchmark->Args({1, context});
  benchmark->Args({16, 1024});
}
void PrefillShapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"tokens", "context"})->UseManualTime()->MinTime(0.1)->Unit(benchmark::kMicrosecond);
  benchmark->Args({128, 128})->Args({512, 512})->Args({2048, 2048})->Args({512, 8192});
}
BENCHMARK_CAPTURE(BM_Decode, small_bf16, kSmall, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, small_int8, kSmall, DType::kI8)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, qwen3_235b_bf16, kQwen3Moe235b, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, olmoe_bf16, kOlmoe, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, olmoe_int8, kOlmoe, DType::kI8)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, qwen3_moe_bf16, kQwen3Moe, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, qwen3_moe_int8, kQwen3Moe, DType::kI8)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, deepseek_v2_lite_bf16, kDeepseekV2Lite, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Decode, deepseek_v3_bf16, kDeepseekV3, DType::kBF16)->Apply(DecodeShapes);
BENCHMARK_CAPTURE(BM_Prefill, olmoe_bf16, kOlmoe, DType::kBF16)->Apply(PrefillShapes);
BENCHMARK_CAPTURE(BM_Prefill, qwen3_moe_bf16, kQwen3Moe, DType::kBF16)->Apply(PrefillShapes);
BENCHMARK_CAPTURE(BM_Prefill, qwen3_moe_int8, kQwen3Moe, DType::kI8)->Apply(PrefillShapes);
BENCHMARK_CAPTURE(BM_Prefill, deepseek_v2_lite_bf16, kDeepseekV2Lite, DType::kBF16)->Apply(PrefillShapes);

}  // namespace
}  // namespace moed::bench
