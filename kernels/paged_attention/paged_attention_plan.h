// How the work of one attention call is cut into pieces for threads. Plain data: the bodies of every instruction set
// read it.
#ifndef KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_PLAN_H_
#define KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_PLAN_H_

#include <cstdint>

#include "kernels/paged_attention/paged_attention.h"

namespace moed::kernels {

// The arithmetic of a token is fixed by these two alone, whatever the pieces are. Keys are visited in tiles of
// kTilePositions (one step of the online softmax), which start at multiples of it. The tiles of a split of
// kSplitPositions make a partial result of their own, and a token's partial results are added in order.
inline constexpr int kTilePositions = 64;
inline constexpr int kSplitPositions = 256;

// Rows (query tokens x query heads of one KV head) that share a pass over keys and values.
inline constexpr int kMaxBlockRows = 128;

struct PagedAttentionPlan {
  // Neighbouring tokens of one sequence against splits [first_split, end_split) of its positions, for KV heads
  // [first_head, end_head), which take turns at each tile. The tokens' results are complete when first_partial < 0;
  // else each split leaves its partial result. All heads together have kMaxBlockRows rows at most, or those of one
  // token.
  struct Piece {
    int32_t sequence;
    int32_t first_head, end_head;
    int32_t first_token;  // row of q
    int32_t num_tokens;
    int32_t first_visible;  // position that the first token sees first
    int32_t first_context;  // positions that lie before the end of the first token's view; +1 for each token after it
    int32_t first_split, end_split;
    // Partial result of (KV head h, split s, row r), counted in rows of all partial results together:
    // first_partial + (h * partial_splits + s - partial_first_split) * rows + r.
    int64_t first_partial;
    int32_t partial_first_split, partial_splits;
    int64_t cost;
  };
  // Tokens whose partial results must be added when all pieces are done.
  struct Reduction {
    int32_t first_token, num_tokens;
    int64_t first_partial;
    int32_t num_splits;
  };

  const Piece* pieces;  // dearest first, so that threads which take them in order end together
  int64_t num_pieces;
  const Reduction* reductions;
  int64_t num_reductions;
  int64_t num_partial_rows;
};

// The arrays lie in `workspace`.
PagedAttentionPlan PlanPagedAttention(const PagedAttentionArgs& args, int num_threads, Workspace* workspace);

}  // namespace moed::kernels

#endif  // KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_PLAN_H_
