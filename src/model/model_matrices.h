// The matrices of a model that a WeightPolicy decides about.
#ifndef MOED_MODEL_MODEL_MATRICES_H_
#define MOED_MODEL_MODEL_MATRICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/weight_policy.h"

namespace moed {

// [rows, columns], rows being outputs.
struct ModelMatrix {
  std::string name;  // in the checkpoint
  WeightPart part = WeightPart::kAttention;
  int32_t layer = 0;  // num_layers for the head, which belongs to none
  int64_t rows = 0, columns = 0;
  int64_t count = 0;        // matrices in the tensor; 0: it is one, not a stack
  bool transposed = false;  // the tensor has inputs before outputs
};

// In the order of the layers, the head last. Not among them: embedding, router, norms and biases; the up-projections of
// latent attention (kv_b_proj), which are cut up as they are loaded and stay floats; a head that is tied.
std::vector<ModelMatrix> ListMatrices(const ModelConfig& config);

// What `policy` says of a matrix.
kernels::WeightFormat FormatOf(const ModelMatrix& matrix, const WeightPolicy& policy);

}  // namespace moed

#endif  // MOED_MODEL_MODEL_MATRICES_H_
