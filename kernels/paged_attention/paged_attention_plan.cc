#include "kernels/paged_attention/paged_attention_plan.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace moed::kernels {
namespace {

using Piece = PagedAttentionPlan::Piece;
using Reduction = PagedAttentionPlan::Reduction;

// Bringing a position's key and value into the tile costs about as much as attending to it from so many rows.
constexpr int64_t kTileCostInRows = 4;
// Pieces a thread: the more, the better threads end together, but each partial result costs a little memory traffic.
constexpr int64_t kPiecesPerThread = 8;
// One head's rows of a block are a run of memory, and so are those of the next head behind it. Runs shorter than this
// are read together: what the processor fetches ahead of one belongs to the next then, and is not for nothing.
constexpr int64_t kRunBytes = 8192;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts a sequence's tokens of this step into blocks of neighbours, each over all positions that its tokens see, for one
// KV head.
void AddQueryBlocks(const PagedAttentionArgs& args, int64_t sequence, std::vector<Piece>* pieces) {
  const int64_t group = args.q.dim(1) / args.k_pages.dim(1);
  const int64_t block_tokens = std::max<int64_t>(1, kMaxBlockRows / group);
  const int64_t begin = args.query_starts.As<int32_t>()[sequence];
  const int64_t end = args.query_starts.As<int32_t>()[sequence + 1];
  const int64_t context = args.context_lens.As<int32_t>()[sequence];
  for (int64_t first = begin; first < end; first += block_tokens) {
    const int64_t num_tokens = std::min(block_tokens, end - first);
    const int64_t first_context = context - (end - 1 - first);
    const int64_t first_visible = args.window == 0 ? 0 : std::max<int64_t>(0, first_context - args.window);
    const int64_t end_position = first_context + num_tokens - 1;
    Piece piece = {};
    piece.sequence = static_cast<int32_t>(sequence);
    piece.first_token = static_cast<int32_t>(first);
    piece.num_tokens = static_cast<int32_t>(num_tokens);
    piece.first_visible = static_cast<int32_t>(first_visible);
    piece.first_context = static_cast<int32_t>(first_context);
    piece.first_split = static_cast<int32_t>(first_visible / kSplitPositions);
    piece.end_split = static_cast<int32_t>(CeilDiv(end_position, kSplitPositions));
    piece.first_partial = -1;
    piece.cost = (num_tokens * group + kTileCostInRows) * (end_position - first_visible);
    pieces->push_back(piece);
  }
}

template <typename T>
const T* CopyTo(Workspace* workspace, const std::vector<T>& values) {
  T* copy = static_cast<T*>(workspace->Allocate(values.size() * sizeof(T)));
  std::copy(values.begin(), values.end(), copy);
  return copy;
}

// KV heads of a block that one piece takes, of which one split costs `cost_of_split` for each.
int64_t HeadsAPiece(const PagedAttentionArgs& args, const Piece& block, int64_t cost_of_split, int64_t dearest) {
  const int64_t num_kv_heads = args.k_pages.dim(1), rows = block.num_tokens * (args.q.dim(1) / num_kv_heads);
  const int64_t run = args.k_pages.dim(2) * args.k_pages.dim(3) * static_cast<int64_t>(DTypeSize(args.k_pages.dtype));
  const int64_t wanted =
      std::min({CeilDiv(kRunBytes, run), kMaxBlockRows / rows, num_kv_heads, dearest / cost_of_split});
  return std::max<int64_t>(wanted, 1);
}

}  // namespace

PagedAttentionPlan PlanPagedAttention(const PagedAttentionArgs& args, int num_threads, Workspace* workspace) {
  const int64_t num_kv_heads = args.k_pages.dim(1);
  const int64_t group = args.q.dim(1) / num_kv_heads;
  std::vector<Piece> blocks;
  for (int64_t sequence = 0; sequence < args.context_lens.dim(0); ++sequence) AddQueryBlocks(args, sequence, &blocks);

  int64_t dearest = std::numeric_limits<int64_t>::max();
  if (num_threads > 1) {
    int64_t total = 0;
    for (const Piece& block : blocks) total += block.cost * num_kv_heads;
    dearest = CeilDiv(total, num_threads * kPiecesPerThread);
  }

  PagedAttentionPlan plan = {};
  std::vector<Piece> pieces;
  std::vector<Reduction> reductions;
  const auto add_heads = [&](Piece piece, int64_t heads) {
    const int64_t cost_of_head = piece.cost;
    for (int64_t head = 0; head < num_kv_heads; head += heads) {
      piece.first_head = static_cast<int32_t>(head);
      piece.end_head = static_cast<int32_t>(std::min(head + heads, num_kv_heads));
      piece.cost = cost_of_head * (piece.end_head - piece.first_head);
      pieces.push_back(piece);
    }
  };
  for (const Piece& block : blocks) {
    const int64_t num_splits = block.end_split - block.first_split;
    const int64_t cost_of_split = std::max<int64_t>(1, block.cost / num_splits);
    const int64_t heads = HeadsAPiece(args, block, cost_of_split, dearest);
    const int64_t splits_a_piece = std::max<int64_t>(1, dearest / cost_of_split / heads);
    if (splits_a_piece >= num_splits) {
      add_heads(block, heads);
      continue;
    }
    for (int64_t first = block.first_split; first < block.end_split; first += splits_a_piece) {
      Piece piece = block;
      piece.first_split = static_cast<int32_t>(first);
      piece.end_split = static_cast<int32_t>(std::min<int64_t>(first + splits_a_piece, block.end_split));
      piece.first_partial = plan.num_partial_rows;
      piece.partial_first_split = block.first_split;
      piece.partial_splits = static_cast<int32_t>(num_splits);
      piece.cost = cost_of_split * (piece.end_split - piece.first_split);
      add_heads(piece, heads);
    }
    reductions.push_back(
        {block.first_token, block.num_tokens, plan.num_partial_rows, static_cast<int32_t>(num_splits)});
    plan.num_partial_rows += num_kv_heads * num_splits * block.num_tokens * group;
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.cost > b.cost; });

  plan.pieces = CopyTo(workspace, pieces);
  plan.num_pieces = static_cast<int64_t>(pieces.size());
  plan.reductions = CopyTo(workspace, reductions);
  plan.num_reductions = static_cast<int64_t>(reductions.size());
  return plan;
}

}  // namespace moed::kernels
