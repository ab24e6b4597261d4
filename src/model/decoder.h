// The forward pass of every family: one decoder, driven by ModelConfig.
#ifndef MOED_MODEL_DECODER_H_
#define MOED_MODEL_DECODER_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kv_cache/paged_kv_cache.h"
#include "model/input_observer.h"
#include "model/model_config.h"
#include "model/rope_table.h"
#include "model/weights.h"
#include "tensor/exec_context.h"
#include "tensor/tensor_view.h"

namespace moed {

// A step's inputs on the device; views are borrowed for the call.
struct DecoderBatch {
  TensorView token_ids;     // i32 [num_tokens]
  TensorView positions;     // i32 [num_tokens]
  TensorView query_starts;  // i32 [num_sequences + 1]
  TensorView context_lens;  // i32 [num_sequences], this step's tokens included
  struct Group {
    TensorView slots;         // i64 [num_tokens]: where each token's K and V go
    TensorView block_starts;  // i32 [num_sequences + 1]
    TensorView block_ids;     // i32 [block_starts[num_sequences]]
  };
  std::vector<Group> groups;  // [num_cache_groups]
  TensorView logits_tokens;   // i32 [num_rows]: the tokens whose logits are wanted
  int64_t max_context = 0;    // the largest of context_lens, or more
  // The routing of a layer in which every token goes to one expert: a dense one, a shared expert.
  struct OneExpert {
    TensorView weights;       // f32 [num_tokens]: ones
    TensorView sorted_pairs;  // i32 [num_tokens]: 0, 1, 2, …
    TensorView offsets;       // i32 [2]: 0 and num_tokens
  } one_expert;
};

struct DecoderOutput {
  TensorView logits;  // f32 [num_rows, vocab], in the context's workspace
  // i32 [moe_layers, experts + 1], in the workspace: of the tokens of a layer sorted by expert, where each expert's
  // begin.
  TensorView expert_offsets;
};

// Weights and tables are immutable: one decoder may run with several contexts and caches.
class TransformerDecoder {
 public:
  // The rope table reaches max_context positions. RESOURCE_EXHAUSTED for memory.
  static absl::StatusOr<TransformerDecoder> Create(ModelConfig config, ModelWeights weights, int32_t max_context,
                                                   Device device);

  // UNIMPLEMENTED, with the op, when this model needs one that has no body for the device.
  static absl::Status CheckDevice(const ModelConfig& config, Device device);

  // Runs one step, on a GPU enqueues it; keys and values go into `cache`. The output lives until the workspace's scope
  // around the call ends. `observer`, on the CPU and if not null, is told of the products.
  DecoderOutput Forward(const ExecContext& ctx, const DecoderBatch& batch, PagedKvCache* cache,
                        InputObserver* observer = nullptr) const;

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }

 private:
  struct Activations;
  struct Routing;

  TransformerDecoder(ModelConfig config, ModelWeights weights, RopeTable rope)
      : config_(std::move(config)), weights_(std::move(weights)), rope_(std::move(rope)) {}

  // The block from the norm to the output projection; between them one of the two below, from act->qkv to
  // act->attended.
  void Attention(const ExecContext& ctx, const DecoderBatch& batch, const LayerCache& cache, int32_t layer,
                 Activations* act) const;
  void GroupedQueryAttention(const ExecContext& ctx, const DecoderBatch& batch, const LayerCache& cache, int32_t layer,
                             Activations* act) const;
  void MultiHeadLatentAttention(const ExecContext& ctx, const DecoderBatch& batch, const LayerCache& cache,
                                int32_t layer, Activations* act) const;
  void FeedForward(const ExecContext& ctx, int32_t layer, Activations* act) const;
  void SharedExpert(const ExecContext& ctx, int32_t layer, Activations* act) const;
  // act->branch = (or, for shared experts, +=) what the experts of a part make of act->normed.
  void Experts(const ExecContext& ctx, int32_t layer, WeightPart part, const Routing& routing, Activations* act) const;
  void Logits(const ExecContext& ctx, const DecoderBatch& batch, Activations* act, DecoderOutput* out) const;

  ModelConfig config_;
  ModelWeights weights_;
  RopeTable rope_;
};

}  // namespace moed

#endif  // MOED_MODEL_DECODER_H_
