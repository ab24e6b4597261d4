// The block managers of all cache groups of a model, which must agree on how much of a sequence is cached.
#ifndef MOED_KV_CACHE_CACHE_GROUPS_H_
#define MOED_KV_CACHE_CACHE_GROUPS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kv_cache/block_manager.h"

namespace moed {

// What one sequence holds: a table in each group.
using SequenceBlocks = std::vector<BlockTable>;  // [num_groups]
// Copies between the devices' blocks and the host tier.
using HostMoves = std::vector<std::vector<HostMove>>;  // [num_groups]

// A model whose layers differ in their caches (full attention beside sliding windows) has one group for each kind. A
// position of a sequence counts as cached only where every group has what the next token reads. Not thread-safe.
class CacheGroups {
 public:
  explicit CacheGroups(std::span<const BlockManagerOptions> groups);

  int num_groups() const { return static_cast<int>(managers_.size()); }
  const BlockManager& group(int g) const { return *managers_[g]; }

  // How many positions one sequence can have when it is alone; at most `limit`.
  int64_t MaxPositions(int64_t limit) const;

  void Open(std::string_view salt, SequenceBlocks* blocks);
  void Release(SequenceBlocks* blocks);

  // Extends the tables, which hold exactly `position` positions, with cached blocks of `tokens`, to `limit` positions
  // at most. Returns how many they hold now.
  int32_t ExtendFromPrefix(std::span<const int32_t> tokens, int32_t position, int32_t limit, SequenceBlocks* blocks);

  // Makes room for `num_positions`, or as many as the free blocks of every group allow; returns how many that are.
  int32_t Grow(int32_t num_positions, SequenceBlocks* blocks);

  // The first `num_computed` positions have been computed: their full blocks become findable, and those behind a
  // window are given back.
  void Commit(std::span<const int32_t> tokens, int32_t num_computed, SequenceBlocks* blocks);

  // --- host tier ---
  // How many positions the tables, which hold exactly `position`, could hold with what the host has of `tokens`, too;
  // `limit` at most. `position` where some of the tables' own are still being computed.
  int32_t FindOnHost(std::span<const int32_t> tokens, int32_t position, int32_t limit, const SequenceBlocks& blocks);
  // Whether what comes next is on its way from the host for another sequence.
  bool IsComing(std::span<const int32_t> tokens, const SequenceBlocks& blocks) const;
  // Extends the tables so, as far as there are free blocks, and appends what must be copied. Returns how many positions
  // they hold now.
  int32_t Restore(std::span<const int32_t> tokens, int32_t position, int32_t limit, SequenceBlocks* blocks,
                  HostMoves* moves);
  // BlockManager::ChooseOffloads in all groups, for what `num_steps` steps can take of which each takes `num_positions`
  // positions for `num_sequences` sequences; as much as one of them can take at a time.
  void ChooseOffloads(int32_t num_positions, int32_t num_sequences, int32_t num_steps, HostMoves* moves);
  // BlockManager::EndMove of each.
  void EndMoves(const HostMoves& moves, bool done);

  // Blocks that became free, ever, in all groups.
  uint64_t num_releases() const;
  // The group with the smallest share of free blocks: all are free where all of this one's are.
  const BlockManager& fullest_group() const;

  void CheckInvariants() const;

 private:
  // To how many positions the tables can be extended; leaves the paths in paths_.
  int64_t FindPrefix(std::span<const int32_t> tokens, int32_t position, int64_t limit, const SequenceBlocks& blocks,
                     bool from_host);

  std::vector<std::unique_ptr<BlockManager>> managers_;
  int64_t alignment_ = 1;                              // the least common multiple of the block sizes
  std::vector<std::vector<PrefixIndex::Node>> paths_;  // [num_groups], scratch of FindPrefix
};

}  // namespace moed

#endif  // MOED_KV_CACHE_CACHE_GROUPS_H_
