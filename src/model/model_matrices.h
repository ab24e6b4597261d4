// The matrices of a model that a WeightPolicy decides about.
#ifndef MOED_MODEL_MODEL_MATRICES_H_
#define MOED_MODEL_MODEL_MATRICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/weight_policy.h"

namespace moed {

// What matrices of a layer are multiplied with; those of one input share it.
enum class MatrixInput : uint8_t {
  kAttention,    // what attention begins with, the normed residual: q, k and v, or q_a and kv_a
  kQueryLatent,  // q_b
  kAttended,     // the output projection
  kFeedForward,  // an expert's gate and up
  kActivated,    // its down
  kHead,
  kNone,  // an embedding, which is looked up
};

// [rows, columns], rows being outputs.
struct ModelMatrix {
  std::string name;  // in the checkpoint
  WeightPart part = WeightPart::kAttention;
  int32_t layer = 0;  // num_layers for head and embedding, which belong to none
  int64_t rows = 0, columns = 0;
  MatrixInput input = MatrixInput::kNone;
  int32_t expert = 0;       // of a stack: its first
  int64_t count = 0;        // matrices in the tensor; 0: it is one, not a stack
  bool transposed = false;  // the tensor has inputs before outputs
};

// In the order of the layers, then the embedding, then the head; a tied one is the head under the embedding's name. Not
// among them: router, norms and biases; the up-projections of latent attention (kv_b_proj), which are cut up as they
// are loaded and stay floats.
std::vector<ModelMatrix> ListMatrices(const ModelConfig& config);

// What `policy` says of a matrix.
kernels::WeightFormat FormatOf(const ModelMatrix& matrix, const WeightPolicy& policy);

}  // namespace moed

#endif  // MOED_MODEL_MODEL_MATRICES_H_
