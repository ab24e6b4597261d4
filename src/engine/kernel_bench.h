// How fast single kernels are on a GPU, in the shapes of real models, as fractions of what the GPU gives: of the
// bandwidth of a copy for kernels that wait for memory, of cuBLAS's rate in a large product for those that compute.
#ifndef MOED_ENGINE_KERNEL_BENCH_H_
#define MOED_ENGINE_KERNEL_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/exec_context.h"

namespace moed {

// What a second gives at best; 0: not known.
struct KernelCeilings {
  double bytes = 0;            // read and written by a copy
  double bf16_operations = 0;  // of cuBLAS
  double int8_operations = 0;
};
absl::StatusOr<KernelCeilings> MeasureKernelCeilings(const ExecContext& ctx);

enum class KernelLimit : uint8_t { kBytes, kBf16, kInt8 };

struct KernelResult {
  std::string kernel, shape;
  double seconds = 0;  // of one call, the median
  KernelLimit limit = KernelLimit::kBytes;
  double amount = 0;    // bytes that must be moved at least, or operations
  double fraction = 0;  // of the ceiling; 0 where that is not known
  double bar = 0;       // what the fraction is to reach; 0: nothing was set
};

// A layer of experts, or attention.
struct ExpertShape {
  std::string name;
  int64_t hidden, intermediate;
  int num_experts, top_k;
};
struct AttentionShape {
  std::string name;
  int64_t num_heads, num_kv_heads, k_head_dim;
  int64_t v_head_dim;  // less than k_head_dim: values are the keys' first columns (the latent of MLA)
  double bar;
  DType pages = DType::kBF16;  // or int8
};

// The shapes that are measured; smaller ones are for tests.
struct KernelBenchShapes {
  int64_t decode_batch = 32, decode_context = 4096;
  std::vector<AttentionShape> decode_attention = {{"GQA 8:1, heads of 128", 64, 8, 128, 128, 0.80},
                                                  {"the same, INT8 pages", 64, 8, 128, 128, 0.80, DType::kI8},
                                                  {"MLA, latent of 512 + 64, 16 heads", 16, 1, 576, 512, 0.75},
                                                  {"MLA, latent of 512 + 64, 128 heads", 128, 1, 576, 512, 0.75}};
  std::vector<ExpertShape> experts = {{"OLMoE-1B-7B", 2048, 1024, 64, 8}, {"Mixtral-8x7B", 4096, 14336, 8, 2}};
  std::vector<int64_t> decode_tokens = {1, 2, 8, 32, 128};
  int64_t prefill_tokens = 8192;
  AttentionShape prefill_attention = {"32 heads of 128, 4 of keys", 32, 4, 128, 128, 0.40};
  int64_t vocab = 151936;  // of rows that are sampled
  int64_t block_size = 16;
};

// Measures one kernel after the other and hands each result out as it comes. RESOURCE_EXHAUSTED where the GPU has too
// little memory.
absl::Status RunKernelBench(const ExecContext& ctx, const KernelBenchShapes& shapes, const KernelCeilings& ceilings,
                            const std::function<void(const KernelResult&)>& report);

}  // namespace moed

#endif  // MOED_ENGINE_KERNEL_BENCH_H_
