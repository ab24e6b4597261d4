// A plan's arrays as the decoder takes them.
#ifndef MOED_ENGINE_STEP_INPUTS_H_
#define MOED_ENGINE_STEP_INPUTS_H_

#include <cstdint>
#include <span>

#include "base/status.h"
#include "engine/step_plan.h"
#include "model/decoder.h"
#include "tensor/buffer.h"
#include "tensor/exec_context.h"

namespace moed {

// All arrays lie in one piece of memory, which a GPU gets in one copy. Not thread-safe.
class StepInputs {
 public:
  // The batch of `plan`, whose pending tokens are last_tokens[slot]. Its views are in the context's workspace, or on
  // the host, and hold until the next call; on a GPU that must not come before the step has ended. RESOURCE_EXHAUSTED
  // when there is no pinned memory.
  absl::StatusOr<DecoderBatch> Make(const ExecContext& ctx, const StepPlan& plan, std::span<const int32_t> last_tokens,
                                    int32_t block_size);

  // Bytes that Make() takes of the workspace at most on a GPU, for a plan of this size.
  static size_t MaxBytes(int64_t tokens, int64_t sequences, int64_t rows, int64_t groups, int64_t blocks);

 private:
  Buffer host_;
};

}  // namespace moed

#endif  // MOED_ENGINE_STEP_INPUTS_H_
