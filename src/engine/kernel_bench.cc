#include "engine/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "base/text.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/machine_peaks/machine_peaks.h"
#include "kernels/moe_ffn/moe_ffn.h"
#include "kernels/moe_gating/moe_gating.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/sampling/sample_rows.h"
#include "tensor/buffer.h"
#include "tensor/cuda_graph.h"

namespace moed {
namespace {

using kernels::PackedWeight;
using kernels::WeightFormat;

// ------------------------------------------------------------------------------------------------------ the clock

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Enqueues one call; `call` counts them, so that each may find its data elsewhere.
using Call = std::function<void(int call)>;

// The median time of a call, of several samples of many calls. They are recorded as a graph where that is possible, so
// that the time between two launches does not count.
absl::StatusOr<double> SecondsOfCall(const ExecContext& ctx, const Call& enqueue) {
  constexpr double kSampleSeconds = 4e-3;
  constexpr int kMaxCalls = 64, kSamples = 7;
  double first = 0;
  for (int i = 0; i < 2; ++i) {  // the first loads code and takes memory
    const double start = Now();
    enqueue(i);
    MOED_RETURN_IF_ERROR(ctx.stream->Synchronize());
    first = Now() - start;
  }
  const int calls = static_cast<int>(std::clamp(kSampleSeconds / first, 1.0, double{kMaxCalls}));
  const auto enqueue_all = [&] {
    for (int i = 0; i < calls; ++i) enqueue(i);
  };
  std::optional<CudaGraph> graph;
  if (CudaGraph::BeginCapture(ctx.stream).ok()) {
    enqueue_all();
    auto recorded = CudaGraph::EndCapture(ctx.stream);
    if (recorded.ok()) graph.emplace(*std::move(recorded));
  }
  std::vector<double> samples;
  for (int sample = 0; sample <= kSamples; ++sample) {  // the first warms up
    const double start = Now();
    if (graph) {
      graph->Launch(ctx.stream);
    } else {
      enqueue_all();
    }
    MOED_RETURN_IF_ERROR(ctx.stream->Synchronize());
    if (sample > 0) samples.push_back((Now() - start) / calls);
  }
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  return samples[kSamples / 2];
}

// ------------------------------------------------------------------------------------------------- data on the GPU

// A tensor of the GPU and its memory.
struct DeviceTensor {
  Buffer memory;
  TensorView view;
};

absl::StatusOr<DeviceTensor> Empty(const ExecContext& ctx, std::initializer_list<int64_t> shape,
                                   DType dtype = DType::kF32) {
  DeviceTensor tensor;
  tensor.view = TensorView(nullptr, shape, dtype, ctx.device);
  MOED_ASSIGN_OR_RETURN(tensor.memory, Buffer::Allocate(tensor.view.num_bytes(), ctx.device));
  tensor.view.data = tensor.memory.data();
  return tensor;
}

template <typename T>
absl::StatusOr<DeviceTensor> Upload(const ExecContext& ctx, const std::vector<T>& values,
                                    std::initializer_list<int64_t> shape) {
  MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(values.size() * sizeof(T)));
  std::memcpy(host.data(), values.data(), values.size() * sizeof(T));
  DeviceTensor tensor;
  MOED_ASSIGN_OR_RETURN(tensor.memory, Buffer::MoveTo(std::move(host), ctx.device));
  tensor.view = TensorView(tensor.memory.data(), shape, DTypeOf<T>::value, ctx.device);
  return tensor;
}

// Fills `to` with copies of `piece`, both on the GPU.
void Repeat(const ExecContext& ctx, const Buffer& piece, const Buffer& to) {
  for (size_t done = 0; done < to.size(); done += piece.size()) {
    ctx.stream->Copy(static_cast<char*>(to.data()) + done, piece.data(), std::min(piece.size(), to.size() - done));
  }
}

std::vector<float> Normal(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Normal values as bf16: a megabyte of them over and over.
absl::StatusOr<DeviceTensor> RandomBf16(const ExecContext& ctx, std::mt19937& random,
                                        std::initializer_list<int64_t> shape) {
  constexpr int64_t kPiece = 1 << 19;
  MOED_ASSIGN_OR_RETURN(DeviceTensor tensor, Empty(ctx, shape, DType::kBF16));
  std::vector<BFloat16> values;
  for (const float value : Normal(random, std::min(kPiece, tensor.view.num_elements()))) {
    values.push_back(ToBFloat16(value));
  }
  MOED_ASSIGN_OR_RETURN(const DeviceTensor piece, Upload(ctx, values, {std::ssize(values)}));
  Repeat(ctx, piece.memory, tensor.memory);
  MOED_RETURN_IF_ERROR(ctx.stream->Synchronize());
  return tensor;
}

// The same of 8-bit integers.
absl::StatusOr<DeviceTensor> RandomInt8(const ExecContext& ctx, std::mt19937& random,
                                        std::initializer_list<int64_t> shape) {
  constexpr int64_t kPiece = 1 << 20;
  MOED_ASSIGN_OR_RETURN(DeviceTensor tensor, Empty(ctx, shape, DType::kI8));
  std::uniform_int_distribution<int> integers(-127, 127);
  std::vector<int8_t> values(std::min(kPiece, tensor.view.num_elements()));
  for (int8_t& value : values) value = static_cast<int8_t>(integers(random));
  MOED_ASSIGN_OR_RETURN(const DeviceTensor piece, Upload(ctx, values, {std::ssize(values)}));
  Repeat(ctx, piece.memory, tensor.memory);
  MOED_RETURN_IF_ERROR(ctx.stream->Synchronize());
  return tensor;
}

absl::StatusOr<DeviceTensor> RandomFloats(const ExecContext& ctx, std::mt19937& random,
                                          std::initializer_list<int64_t> shape) {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  return Upload(ctx, Normal(random, count), shape);
}

// ------------------------------------------------------------------------------------------------------ attention

// Sequences of one length, `new_tokens` of which are this step's, over pages in random order.
class AttentionCase {
 public:
  static absl::StatusOr<AttentionCase> Create(const ExecContext& ctx, const AttentionShape& shape, int64_t sequences,
                                              int64_t context, int64_t new_tokens, int64_t block_size) {
    std::mt19937 random(1);
    AttentionCase made;
    const int64_t blocks = (context + block_size - 1) / block_size, tokens = sequences * new_tokens;
    std::vector<int32_t> ids(sequences * blocks), block_starts, query_starts;
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    for (int64_t s = 0; s <= sequences; ++s) {
      block_starts.push_back(static_cast<int32_t>(s * blocks));
      query_starts.push_back(static_cast<int32_t>(s * new_tokens));
    }
    const std::vector<int32_t> contexts(sequences, static_cast<int32_t>(context));
    const bool is_latent = shape.v_head_dim < shape.k_head_dim;
    MOED_ASSIGN_OR_RETURN(made.q_, RandomFloats(ctx, random, {tokens, shape.num_heads, shape.k_head_dim}));
    const auto pages_of = [&](int64_t head_dim) {
      const auto pages = {sequences * blocks, shape.num_kv_heads, block_size, head_dim};
      return shape.pages == DType::kI8 ? RandomInt8(ctx, random, pages) : RandomBf16(ctx, random, pages);
    };
    MOED_ASSIGN_OR_RETURN(made.k_, pages_of(shape.k_head_dim));
    if (!is_latent) {
      MOED_ASSIGN_OR_RETURN(made.v_, pages_of(shape.v_head_dim));
    }
    if (shape.pages == DType::kI8) {
      MOED_ASSIGN_OR_RETURN(made.scales_,
                            Upload(ctx, std::vector<float>(sequences * blocks * shape.num_kv_heads * block_size, 0.01f),
                                   {sequences * blocks, shape.num_kv_heads, block_size}));
    }
    MOED_ASSIGN_OR_RETURN(made.query_starts_, Upload(ctx, query_starts, {sequences + 1}));
    MOED_ASSIGN_OR_RETURN(made.contexts_, Upload(ctx, contexts, {sequences}));
    MOED_ASSIGN_OR_RETURN(made.block_starts_, Upload(ctx, block_starts, {sequences + 1}));
    MOED_ASSIGN_OR_RETURN(made.ids_, Upload(ctx, ids, {sequences * blocks}));
    MOED_ASSIGN_OR_RETURN(made.out_, Empty(ctx, {tokens, shape.num_heads * shape.v_head_dim}));
    made.args_ = {.q = made.q_.view,
                  .k_pages = made.k_.view,
                  .v_pages = is_latent ? made.k_.view.Columns(0, shape.v_head_dim) : made.v_.view,
                  .k_scales = made.scales_.view,
                  .v_scales = made.scales_.view,
                  .query_starts = made.query_starts_.view,
                  .context_lens = made.contexts_.view,
                  .block_starts = made.block_starts_.view,
                  .block_ids = made.ids_.view,
                  .max_context = context,
                  .scale = 1.0f / std::sqrt(static_cast<float>(shape.k_head_dim)),
                  .out = made.out_.view};
    return made;
  }

  const kernels::PagedAttentionArgs& args() const { return args_; }
  double CacheBytes() const {
    return static_cast<double>(k_.memory.size() + v_.memory.size() + 2 * scales_.memory.size());
  }

 private:
  DeviceTensor q_, k_, v_, scales_, query_starts_, contexts_, block_starts_, ids_, out_;
  kernels::PagedAttentionArgs args_;
};

// -------------------------------------------------------------------------------------------------------- experts

// The weights of a layer: one random expert, copied to where each has its own.
class ExpertWeights {
 public:
  static absl::StatusOr<ExpertWeights> Create(const ExecContext& ctx, const ExpertShape& shape, WeightFormat format) {
    ExpertWeights made;
    MOED_RETURN_IF_ERROR(made.Fill(ctx, shape, shape.intermediate, shape.hidden, format, &made.gate_));
    MOED_RETURN_IF_ERROR(made.Fill(ctx, shape, shape.intermediate, shape.hidden, format, &made.up_));
    MOED_RETURN_IF_ERROR(made.Fill(ctx, shape, shape.hidden, shape.intermediate, format, &made.down_));
    return made;
  }

  void Set(kernels::MoeFfnArgs* args) const {
    args->num_experts = static_cast<int>(gate_.size());
    args->gate = gate_.data();
    args->up = up_.data();
    args->down = down_.data();
  }
  double BytesOfExpert() const { return bytes_of_expert_; }

 private:
  absl::Status Fill(const ExecContext& ctx, const ExpertShape& shape, int64_t n, int64_t k, WeightFormat format,
                    std::vector<PackedWeight>* weights) {
    // Some random rows, over and over: rows are packed each by itself, and what they hold does not matter.
    constexpr int64_t kRows = 64;
    std::mt19937 random(static_cast<uint32_t>(n + k));
    const std::vector<float> source = Normal(random, kRows * k);
    const size_t bytes = kernels::PackedBytes(n, k, format);
    MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(bytes));
    for (int64_t row = 0; row < n; row += kRows) {
      const int64_t rows = std::min(kRows, n - row);
      MOED_RETURN_IF_ERROR(
          kernels::PackWeightRows(TensorView::Of(source.data(), {rows, k}), row, n, format, host.data()));
    }
    MOED_ASSIGN_OR_RETURN(const Buffer one, Buffer::MoveTo(std::move(host), ctx.device));
    MOED_ASSIGN_OR_RETURN(Buffer all, Buffer::Allocate(bytes * shape.num_experts, ctx.device));
    Repeat(ctx, one, all);
    MOED_RETURN_IF_ERROR(ctx.stream->Synchronize());
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      weights->push_back({.data = static_cast<char*>(all.data()) + expert * bytes, .n = n, .k = k, .format = format});
    }
    memory_.push_back(std::move(all));
    bytes_of_expert_ += static_cast<double>(bytes);
    return absl::OkStatus();
  }

  std::vector<PackedWeight> gate_, up_, down_;
  std::vector<Buffer> memory_;
  double bytes_of_expert_ = 0;
};

// Tokens with random router logits, other ones in each of a few variants.
class ExpertCase {
 public:
  static constexpr int kVariants = 4;

  static absl::StatusOr<ExpertCase> Create(const ExecContext& ctx, const ExpertShape& shape,
                                           const ExpertWeights& weights, int64_t tokens) {
    ExpertCase made;
    std::mt19937 random(2);
    for (int variant = 0; variant < kVariants; ++variant) {
      const std::vector<float> logits = Normal(random, tokens * shape.num_experts);
      made.touched_ += static_cast<double>(Touched(logits, shape)) / kVariants;
      MOED_ASSIGN_OR_RETURN(made.logits_[variant], Upload(ctx, logits, {tokens, shape.num_experts}));
    }
    MOED_ASSIGN_OR_RETURN(made.x_, RandomFloats(ctx, random, {tokens, shape.hidden}));
    MOED_ASSIGN_OR_RETURN(made.ids_, Empty(ctx, {tokens, shape.top_k}, DType::kI32));
    MOED_ASSIGN_OR_RETURN(made.choice_weights_, Empty(ctx, {tokens, shape.top_k}));
    MOED_ASSIGN_OR_RETURN(made.pairs_, Empty(ctx, {tokens * shape.top_k}, DType::kI32));
    MOED_ASSIGN_OR_RETURN(made.offsets_, Empty(ctx, {shape.num_experts + 1}, DType::kI32));
    MOED_ASSIGN_OR_RETURN(made.out_, Empty(ctx, {tokens, shape.hidden}));
    made.gating_ = {.top_k = shape.top_k,
                    .renormalize = true,
                    .expert_ids = made.ids_.view,
                    .weights = made.choice_weights_.view,
                    .sorted_pairs = made.pairs_.view,
                    .expert_offsets = made.offsets_.view};
    made.ffn_ = {.x = made.x_.view,
                 .top_k = shape.top_k,
                 .weights = made.choice_weights_.view,
                 .sorted_pairs = made.pairs_.view,
                 .expert_offsets = made.offsets_.view,
                 .out = made.out_.view};
    weights.Set(&made.ffn_);
    return made;
  }

  // The choice of experts, and the experts.
  void Enqueue(const ExecContext& ctx, int call) const {
    kernels::MoeGatingArgs gating = gating_;
    gating.logits = logits_[call % kVariants].view;
    kernels::MoeGating(ctx, gating);
    kernels::MoeFfn(ctx, ffn_);
  }

  // Experts that tokens go to, on average.
  double touched() const { return touched_; }

 private:
  static int64_t Touched(const std::vector<float>& logits, const ExpertShape& shape) {
    std::set<int> experts;
    std::vector<int> order(shape.num_experts);
    for (auto row = logits.begin(); row != logits.end(); row += shape.num_experts) {
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + shape.top_k, order.end(),
                        [&](int a, int b) { return row[a] > row[b]; });
      experts.insert(order.begin(), order.begin() + shape.top_k);
    }
    return std::ssize(experts);
  }

  DeviceTensor logits_[kVariants], x_, ids_, choice_weights_, pairs_, offsets_, out_;
  kernels::MoeGatingArgs gating_;
  kernels::MoeFfnArgs ffn_;
  double touched_ = 0;
};

// -------------------------------------------------------------------------------------------------------- the bench

class KernelBench {
 public:
  KernelBench(const ExecContext& ctx, const KernelBenchShapes& shapes, const KernelCeilings& ceilings,
              const std::function<void(const KernelResult&)>& report)
      : ctx_(ctx), shapes_(shapes), ceilings_(ceilings), report_(report) {}

  absl::Status Run() {
    for (const AttentionShape& shape : shapes_.decode_attention) MOED_RETURN_IF_ERROR(DecodeAttention(shape));
    MOED_RETURN_IF_ERROR(PrefillAttention(shapes_.prefill_attention));
    for (const ExpertShape& shape : shapes_.experts) {
      MOED_RETURN_IF_ERROR(Experts(shape, WeightFormat::BF16()));
      MOED_RETURN_IF_ERROR(Experts(shape, WeightFormat::Int8()));
    }
    return Sampling();
  }

 private:
  absl::Status Measure(KernelResult result, const Call& enqueue) {
    MOED_ASSIGN_OR_RETURN(result.seconds, SecondsOfCall(ctx_, enqueue));
    const double ceiling = result.limit == KernelLimit::kBytes  ? ceilings_.bytes
                           : result.limit == KernelLimit::kBf16 ? ceilings_.bf16_operations
                                                                : ceilings_.int8_operations;
    if (ceiling > 0) result.fraction = result.amount / result.seconds / ceiling;
    report_(result);
    return absl::OkStatus();
  }

  absl::Status DecodeAttention(const AttentionShape& shape) {
    MOED_ASSIGN_OR_RETURN(const AttentionCase one,
                          AttentionCase::Create(ctx_, shape, shapes_.decode_batch, shapes_.decode_context,
                                                /*new_tokens=*/1, shapes_.block_size));
    return Measure(
        {.kernel = "decode attention",
         .shape = fmt::format("{}, batch {}, context {}", shape.name, shapes_.decode_batch, shapes_.decode_context),
         .limit = KernelLimit::kBytes,
         .amount = one.CacheBytes(),
         .bar = shape.bar},
        [&](int) { kernels::PagedAttention(ctx_, one.args()); });
  }

  absl::Status PrefillAttention(const AttentionShape& shape) {
    const int64_t tokens = shapes_.prefill_tokens;
    MOED_ASSIGN_OR_RETURN(const AttentionCase one,
                          AttentionCase::Create(ctx_, shape, 1, tokens, tokens, shapes_.block_size));
    // Half of all pairs of tokens, a product with keys and one with values for each.
    const double pairs = 0.5 * static_cast<double>(tokens) * static_cast<double>(tokens + 1);
    const auto dims = static_cast<double>(shape.num_heads * (shape.k_head_dim + shape.v_head_dim));
    return Measure({.kernel = "prefill attention",
                    .shape = fmt::format("{}, {} tokens", shape.name, tokens),
                    .limit = KernelLimit::kBf16,
                    .amount = 2.0 * pairs * dims,
                    .bar = shape.bar},
                   [&](int) { kernels::PagedAttention(ctx_, one.args()); });
  }

  absl::Status Experts(const ExpertShape& shape, WeightFormat format) {
    const bool is_bf16 = format == WeightFormat::BF16();
    const std::string name = fmt::format("{} {}", shape.name, is_bf16 ? "bf16" : "int8");
    MOED_ASSIGN_OR_RETURN(const ExpertWeights weights, ExpertWeights::Create(ctx_, shape, format));
    for (const int64_t tokens : shapes_.decode_tokens) {
      MOED_ASSIGN_OR_RETURN(const ExpertCase one, ExpertCase::Create(ctx_, shape, weights, tokens));
      MOED_RETURN_IF_ERROR(Measure({.kernel = "decode experts",
                                    .shape = fmt::format("{}, {} tokens", name, tokens),
                                    .limit = KernelLimit::kBytes,
                                    .amount = one.touched() * weights.BytesOfExpert(),
                                    .bar = !is_bf16      ? 0.0
                                           : tokens == 1 ? 0.65
                                                         : 0.80},
                                   [&](int call) { one.Enqueue(ctx_, call); }));
    }
    const int64_t tokens = shapes_.prefill_tokens;
    MOED_ASSIGN_OR_RETURN(const ExpertCase one, ExpertCase::Create(ctx_, shape, weights, tokens));
    const double pairs = static_cast<double>(tokens * shape.top_k);
    return Measure({.kernel = "prefill experts",
                    .shape = fmt::format("{}, {} tokens", name, tokens),
                    .limit = is_bf16 ? KernelLimit::kBf16 : KernelLimit::kInt8,
                    .amount = 6.0 * pairs * static_cast<double>(shape.hidden * shape.intermediate),
                    .bar = is_bf16 ? 0.50 : 0.45},
                   [&](int call) { one.Enqueue(ctx_, call); });
  }

  // A token from each row, with a temperature and from a nucleus; a row must be read once.
  absl::Status Sampling() {
    std::mt19937 random(3);
    for (const int64_t rows : {int64_t{1}, shapes_.decode_batch}) {
      MOED_ASSIGN_OR_RETURN(const DeviceTensor logits, RandomFloats(ctx_, random, {rows, shapes_.vocab}));
      MOED_ASSIGN_OR_RETURN(const DeviceTensor tokens, Empty(ctx_, {rows}, DType::kI32));
      MOED_ASSIGN_OR_RETURN(const DeviceTensor logprobs, Empty(ctx_, {rows}));
      for (const float top_p : {1.0f, 0.95f}) {
        const std::vector<kernels::SamplingRow> how(rows, {.top_p = top_p, .uniform = 0.5});
        MOED_ASSIGN_OR_RETURN(Buffer host, Buffer::Allocate(how.size() * sizeof(how[0])));
        std::memcpy(host.data(), how.data(), host.size());
        MOED_ASSIGN_OR_RETURN(const Buffer how_there, Buffer::MoveTo(std::move(host), ctx_.device));
        const kernels::SampleRowsArgs args = {
            .logits = logits.view,
            .rows = static_cast<const kernels::SamplingRow*>(how_there.data()),
            .tokens = tokens.view,
            .token_logprobs = logprobs.view,
            .top_ids = TensorView(tokens.view.data, {rows, 0}, DType::kI32, ctx_.device),
            .top_logprobs = TensorView(logprobs.view.data, {rows, 0}, DType::kF32, ctx_.device)};
        MOED_RETURN_IF_ERROR(Measure({.kernel = "sampling",
                                      .shape = fmt::format("{} rows of {}, top_p {}", rows, shapes_.vocab, top_p),
                                      .limit = KernelLimit::kBytes,
                                      .amount = static_cast<double>(logits.view.num_bytes())},
                                     [&](int) { kernels::SampleRows(ctx_, args); }));
      }
    }
    return absl::OkStatus();
  }

  const ExecContext& ctx_;
  const KernelBenchShapes& shapes_;
  const KernelCeilings& ceilings_;
  const std::function<void(const KernelResult&)>& report_;
};

}  // namespace

absl::StatusOr<KernelCeilings> MeasureKernelCeilings(const ExecContext& ctx) {
  KernelCeilings ceilings;
  MOED_ASSIGN_OR_RETURN(ceilings.bytes, kernels::CudaCopyBandwidth(ctx));
  for (const auto& [format, operations] : {std::pair{WeightFormat::BF16(), &ceilings.bf16_operations},
                                           {WeightFormat::Int8(), &ceilings.int8_operations}}) {
    const auto measured = kernels::CublasOperations(ctx, format);
    if (!measured.ok() && !absl::IsNotFound(measured.status())) return measured.status();
    *operations = measured.value_or(0.0);
  }
  return ceilings;
}

absl::Status RunKernelBench(const ExecContext& ctx, const KernelBenchShapes& shapes, const KernelCeilings& ceilings,
                            const std::function<void(const KernelResult&)>& report) {
  return KernelBench(ctx, shapes, ceilings, report).Run();
}

}  // namespace moed
