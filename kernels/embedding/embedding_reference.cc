#include "kernels/common/reference.h"
#include "kernels/embedding/embedding.h"

namespace moed::kernels::reference {

void Embedding(const EmbeddingArgs& args) {
  for (int64_t token = 0; token < args.ids.dim(0); ++token) {
    const int32_t id = args.ids.As<int32_t>()[token];
    for (int64_t i = 0; i < args.out.dim(1); ++i) {
      const float value =
          args.packed.data != nullptr ? PackedElement(args.packed, id, i) : ReadFloat(args.table, id, i);
      At<float>(args.out, token, i) = value * args.scale;
    }
  }
}

}  // namespace moed::kernels::reference
