// From rows of logits to tokens, each row by the parameters of its request. What comes of a row is a function of its
// logits and of its SamplingRow alone; the number that a draw hangs on is among them. Choices among equal logits go to
// the lower id.
#ifndef KERNELS_SAMPLING_SAMPLE_ROWS_H_
#define KERNELS_SAMPLING_SAMPLE_ROWS_H_

#include <cstdint>

#include "kernels/common/op.h"

namespace moed::kernels {

// What happens to one logit, in this order, before a token is chosen.
struct LogitAdjustment {
  int32_t id = 0;
  float bias = 0.0f;       // added
  float subtract = 0.0f;   // presence and frequency penalty
  bool is_seen = false;    // the repetition penalty is for it, after `bias`
  bool is_barred = false;  // may not be chosen
};

// How a row's token is chosen; fields as in SamplingParams. Plain data, which goes to a GPU as it is.
struct SamplingRow {
  float temperature = 1.0f;  // 0: the largest logit
  int32_t top_k = 0;         // 0, or as many as there are entries: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  // -1: no log-probabilities; else those of the token and of so many of the most likely ones.
  int32_t logprobs = -1;
  // Of the adjustments of all rows: each id once.
  int32_t first_adjustment = 0, num_adjustments = 0;
  double uniform = 0.0;  // in [0, 1): which part of the distribution is drawn
};

struct SampleRowsArgs {
  TensorView logits;  // f32 [num_rows, vocab], contiguous; overwritten
  // Borrowed arrays where the logits are.
  const SamplingRow* rows = nullptr;  // [num_rows]
  const LogitAdjustment* adjustments = nullptr;
  int64_t num_adjustments = 0;  // of all rows
  TensorView tokens;            // i32 [num_rows]; kNotFinite for a row with an infinity or a NaN
  // Of the model's own distribution, before adjustments and temperature; rows that ask for fewer leave the rest alone.
  TensorView token_logprobs;  // f32 [num_rows]
  TensorView top_ids;         // i32 [num_rows, the most that a row asks for]: most likely first
  TensorView top_logprobs;    // f32, the same

  static constexpr int32_t kNotFinite = -1;
  static constexpr int32_t kMaxTop = 32;  // columns of top_ids at most
};

absl::Status Check(const SampleRowsArgs& args);

// The bodies agree but for draws so near to the border of two tokens that the rounding of weights decides.
namespace reference {
void SampleRows(const SampleRowsArgs& args);
}
namespace cpu {
// One row after the other on the calling thread; the caller shares them out.
void SampleRows(const ExecContext& ctx, const SampleRowsArgs& args);
}  // namespace cpu
namespace cuda {
void SampleRows(const ExecContext& ctx, const SampleRowsArgs& args);
}
MOED_DEFINE_OP_DISPATCH(SampleRows)

}  // namespace moed::kernels

#endif  // KERNELS_SAMPLING_SAMPLE_ROWS_H_
