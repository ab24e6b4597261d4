// Looks on while a decoder runs: at the rows that each matrix is multiplied with.
#ifndef MOED_MODEL_INPUT_OBSERVER_H_
#define MOED_MODEL_INPUT_OBSERVER_H_

#include <cstdint>

#include "kernels/moe_ffn/moe_ffn.h"
#include "model/model_matrices.h"
#include "tensor/tensor_view.h"

namespace moed {

// Called by TransformerDecoder::Forward in its thread, before the product; on the CPU only. Views live as long as the
// call.
class InputObserver {
 public:
  virtual ~InputObserver() = default;

  // x, f32 [rows, inputs], rows may be strided. Of kHead the layer is the number of layers. Not for feed-forwards.
  virtual void OnProduct(int32_t layer, MatrixInput input, const TensorView& x) = 0;
  // All experts of a part of a layer; `args` are those of the op.
  virtual void OnFeedForward(int32_t layer, WeightPart part, const kernels::MoeFfnArgs& args) = 0;
};

}  // namespace moed

#endif  // MOED_MODEL_INPUT_OBSERVER_H_
