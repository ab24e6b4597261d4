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
        AddProjection(names_.q_a_proj, MatrixInput::kAttention, latent.q_lora_rank, hidden);
        AddProjection(names_.q_b_proj, MatrixInput::kQueryLatent, q_rows, latent.q_lora_rank);
      } else {
        AddProjection(names_.q_proj, MatrixInput::kAttention, q_rows, hidden);
      }
      AddProjection(names_.kv_a_proj, MatrixInput::kAttention, latent.cached_dim(), hidden);
    } else {
      const int64_t kv_heads = attention.num_kv_heads;
      AddProjection(names_.q_proj, MatrixInput::kAttention, q_rows, hidden);
      AddProjection(names_.k_proj, MatrixInput::kAttention, kv_heads * attention.k_head_dim, hidden);
      AddProjection(names_.v_proj, MatrixInput::kAttention, kv_heads * attention.v_head_dim, hidden);
    }
    AddProjection(names_.o_proj, MatrixInput::kAttended, hidden, heads * attention.v_head_dim);
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
  void AddProjection(const std::string& pattern, MatrixInput input, int64_t rows, int64_t columns) {
    list_->push_back({.name = fmt::format(fmt::runtime(pattern), layer_),
                      .part = WeightPart::kAttention,
                      .layer = layer_,
                      .rows = rows,
                      .columns = columns,
                      .input = input});
  }

  // Where the name for up is empty, gate's tensor holds both.
  void AddFfn(WeightPart part, const std::string& gate, const std::string& up, const std::string& down,
              int64_t intermediate, int32_t experts, ExpertLayout layout) {
    const bool separate = layout == ExpertLayout::kSeparate;
    const int64_t hidden = config_.hidden_size;
    const auto add = [&](const std::string& pattern, MatrixInput input, int32_t expert, int64_t rows, int64_t columns) {
      list_->push_back({.name = fmt::format(fmt::runtime(pattern), layer_, expert),
                        .part = part,
                        .layer = layer_,
                        .rows = rows,
                        .columns = columns,
                        .input = input,
                        .expert = expert,
                        .count = separate ? 0 : experts,
                        .transposed = layout == ExpertLayout::kTransposed});
    };
    for (int32_t expert = 0; expert < (separate ? experts : 1); ++expert) {
      add(gate, MatrixInput::kFeedForward, expert, up.empty() ? 2 * intermediate : intermediate, hidden);
      if (!up.empty()) add(up, MatrixInput::kFeedForward, expert, intermediate, hidden);
      add(down, MatrixInput::kActivated, expert, hidden, intermediate);
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
  const auto add_table = [&](const std::string& name, WeightPart part, MatrixInput input) {
    list.push_back({.name = name,
                    .part = part,
                    .layer = config.num_layers(),
                    .rows = config.vocab_size,
                    .columns = config.hidden_size,
                    .input = input});
  };
  if (config.tied_embeddings) {
    add_table(config.names.embedding, WeightPart::kHead, MatrixInput::kHead);
  } else {
    add_table(config.names.embedding, WeightPart::kEmbedding, MatrixInput::kNone);
    add_table(config.names.lm_head, WeightPart::kHead, MatrixInput::kHead);
  }
  return list;
}

kernels::WeightFormat FormatOf(const ModelMatrix& matrix, const WeightPolicy& policy) {
  if (matrix.part == WeightPart::kHead) return policy.HeadFormat();
  if (matrix.part == WeightPart::kEmbedding) return policy.EmbeddingFormat();
  return policy.Format(matrix.part, matrix.layer);
}

}  // namespace moed
