#include "model/model_matrices.h"

#include <fmt/format.h>

namespace moed {
namespace {

// One layer's matrices, in the loader's order.
class LayerLister {
 public:
  LayerLister(const ModelConfig& config, int32_t layer, std::vector<ModelMatrix>* list)
      : config_(config), names_(config.names), layer_(layer), list_(list) {}

  void AddAttention() {
    const AttentionConfig& attention = config_.attention;
    const LatentAttentionConfig& latent = attention.latent;
    const int64_t hidden = config_.hidden_size, heads = attention.num_heads;
    const int64_t q_rows = heads * attention.k_head_dim;
    if (attention.is_latent()) {
      if (latent.q_lora_rank > 0) {
        Add(names_.q_a_proj, WeightPart::kAttention, latent.q_lora_rank, hidden);
        Add(names_.q_b_proj, WeightPart::kAttention, q_rows, latent.q_lora_rank);
      } else {
        Add(names_.q_proj, WeightPart::kAttention, q_rows, hidden);
      }
      Add(names_.kv_a_proj, WeightPart::kAttention, latent.cached_dim(), hidden);
    } else {
      const int64_t kv_heads = attention.num_kv_heads;
      Add(names_.q_proj, WeightPart::kAttention, q_rows, hidden);
      Add(names_.k_proj, WeightPart::kAttention, kv_heads * attention.k_head_dim, hidden);
      Add(names_.v_proj, WeightPart::kAttention, kv_heads * attention.v_head_dim, hidden);
    }
    Add(names_.o_proj, WeightPart::kAttention, hidden, heads * attention.v_head_dim);
  }

  void AddFeedForwards() {
    if (!config_.layers[layer_].is_moe) {
      AddFfn(WeightPart::kDense, names_.dense_gate, names_.dense_up, names_.dense_down, config_.intermediate_size, 1,
             ExpertLayout::kSeparate);
      return;
    }
    const MoeConfig& moe = config_.moe;
    if (moe.shared_intermediate_size > 0) {
      AddFfn(WeightPart::kShared, names_.shared_gate, names_.shared_up, names_.shared_down,
             moe.shared_intermediate_size, 1, ExpertLayout::kSeparate);
    }
    AddFfn(WeightPart::kExperts, names_.expert_gate, names_.expert_up, names_.expert_down, moe.intermediate_size,
           moe.num_experts, config_.expert_layout);
  }

 private:
  void Add(const std::string& pattern, WeightPart part, int64_t rows, int64_t columns, int32_t expert = 0,
           int64_t count = 0, bool transposed = false) {
    list_->push_back({.name = fmt::format(fmt::runtime(pattern), layer_, expert),
                      .part = part,
                      .layer = layer_,
                      .rows = rows,
                      .columns = columns,
                      .count = count,
                      .transposed = transposed});
  }

  // Where the name for up is empty, gate's tensor holds both.
  void AddFfn(WeightPart part, const std::string& gate, const std::string& up, const std::string& down,
              int64_t intermediate, int32_t experts, ExpertLayout layout) {
    const bool separate = layout == ExpertLayout::kSeparate, transposed = layout == ExpertLayout::kTransposed;
    const int64_t hidden = config_.hidden_size, count = separate ? 0 : experts;
    for (int32_t expert = 0; expert < (separate ? experts : 1); ++expert) {
      Add(gate, part, up.empty() ? 2 * intermediate : intermediate, hidden, expert, count, transposed);
      if (!up.empty()) Add(up, part, intermediate, hidden, expert, count, transposed);
      Add(down, part, hidden, intermediate, expert, count, transposed);
    }
  }

  const ModelConfig& config_;
  const TensorNames& names_;
  int32_t layer_;
  std::vector<ModelMatrix>* list_;
};

}  // namespace

std::vector<ModelMatrix> ListMatrices(const ModelConfig& config) {
  std::vector<ModelMatrix> list;
  for (int32_t layer = 0; layer < config.num_layers(); ++layer) {
    LayerLister lister(config, layer, &list);
    lister.AddAttention();
    lister.AddFeedForwards();
  }
  if (!config.tied_embeddings) {
    list.push_back({.name = config.names.lm_head,
                    .part = WeightPart::kHead,
                    .layer = config.num_layers(),
                    .rows = config.vocab_size,
                    .columns = config.hidden_size});
  }
  return list;
}

kernels::WeightFormat FormatOf(const ModelMatrix& matrix, const WeightPolicy& policy) {
  return matrix.part == WeightPart::kHead ? policy.HeadFormat() : policy.Format(matrix.part, matrix.layer);
}

}  // namespace moed
