// Which blocks of a paged cache belong to whom: numbers only, no memory (that is PagedKvCache).
#ifndef MOED_KV_CACHE_BLOCK_MANAGER_H_
#define MOED_KV_CACHE_BLOCK_MANAGER_H_

#include <cstdint>
#include <list>
#include <span>
#include <string_view>
#include <vector>

#include "kv_cache/prefix_index.h"

namespace moed {

// In a block table: the place of a block that lies wholly before the window and was given back.
inline constexpr int32_t kNoBlock = PrefixIndex::kNoBlock;

struct BlockManagerOptions {
  int32_t num_blocks = 0;
  int32_t block_size = 16;  // positions in a block
  // Layers of this group read the last `window` positions only, the token's own included; 0: all. Blocks that lie
  // before the window are given back while the sequence runs.
  int32_t window = 0;
  // Keep the full blocks of those who left for prompts that begin alike, until the space is needed.
  bool enable_prefix_caching = true;
  // Blocks of the host tier: what the cached blocks hold goes there before they are given out again.
  int32_t num_host_blocks = 0;
  // For tests: narrows the prefix index's hash.
  uint64_t prefix_hash_mask = ~uint64_t{0};
};

// The blocks of one sequence in one cache group. Filled and emptied by a BlockManager only.
struct BlockTable {
  std::vector<int32_t> ids;  // block i holds positions [i * block_size, (i + 1) * block_size); or kNoBlock
  int32_t num_behind = 0;    // leading entries that were found behind the window
  // The first num_indexed blocks are a path in the prefix index that ends at `tail`, to which the table refers.
  int32_t num_indexed = 0;
  PrefixIndex::Node tail = PrefixIndex::kNoNode;
};

// A block on its way to the host tier or back: what `block` holds, or will hold, is the prefix `node`, which is
// referred to while it is under way.
struct HostMove {
  PrefixIndex::Node node = PrefixIndex::kNoNode;
  int32_t block = kNoBlock;
  int32_t host_block = kNoBlock;
  bool to_host = false;
};

// Reference counts, the free list and the prefix cache of one cache group.
//
// A block is in use (referred to by one table or, when full, by several), or free. A free block may still hold a
// prefix: it stays findable, and is the one to be given out again when no blank block is left, least recently released
// first. A sequence releases its blocks from the last to the first, so that of a prefix that nobody uses the tail goes
// before the head, without which it would be of no use.
//
// Only full blocks whose content has been computed are shared (Publish), so nobody ever writes to a shared block. Two
// sequences that compute the same prefix at the same time each keep their own copy; one of the two is findable.
//
// The host tier is a second home for prefixes, from which the least recently used goes first. The cached blocks that
// will be given out next are copied there ahead of time (ChooseOffloads), so that nobody waits for that when they are;
// a prefix that only the host holds comes back in fresh blocks (Adopt). A sequence that was preempted finds there what
// it had computed: swapping (Kwon et al. 2023, section 4.5) and a larger prefix cache are one thing. A move has to be
// ended by its owner (EndMove): until then neither the copy on the host can be found nor the block that is filled from
// one.
//
// Every operation costs O(1) a block that it touches. Not thread-safe.
class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);

  const BlockManagerOptions& options() const { return options_; }
  // Blocks that can be had now: blank ones and those that only hold a prefix.
  int32_t num_free() const { return static_cast<int32_t>(blank_.size()) + num_cached_; }
  // Of these, the ones that hold a prefix.
  int32_t num_cached() const { return num_cached_; }
  // Prefixes that the index knows, those on the way to a findable block or a running sequence included.
  int32_t num_prefixes() const { return index_.num_nodes(); }
  // How often a block became free, ever: while it stands still, what did not fit does not fit yet.
  uint64_t num_releases() const { return num_releases_; }

  // --- single blocks ---
  // A block for the caller alone; there must be a free one.
  int32_t Allocate();
  void Ref(int32_t block);
  void Unref(int32_t block);
  int32_t refs(int32_t block) const { return blocks_[block].refs; }

  // --- tables ---
  // Opens an empty table for a sequence whose prefixes are shared among those of the same salt.
  void Open(std::string_view salt, BlockTable* table);
  // Gives everything back; the table is empty then, and must be opened again before further use.
  void Release(BlockTable* table);

  // Positions that the table could hold if it got all free blocks.
  int64_t Capacity(const BlockTable& table) const {
    return (static_cast<int64_t>(table.ids.size()) + num_free()) * options_.block_size;
  }
  // Allocates what is missing so that the table holds `num_positions`, which must be within Capacity().
  void Grow(int32_t num_positions, BlockTable* table);
  // Gives back what a token at `position`, or any later one, does not read. No step that is under way may still need
  // it: `position` is the first that has not been computed.
  void ReleaseBehindWindow(int32_t position, BlockTable* table);
  // The most blocks that a table holds while it computes `step` positions at a time, up to `num_positions`.
  int64_t MaxBlocks(int64_t num_positions, int64_t step) const;

  // --- prefixes ---
  // Makes the full blocks among the first `num_computed` positions findable. `tokens` are the sequence's.
  void Publish(std::span<const int32_t> tokens, int32_t num_computed, BlockTable* table);
  // The path of `tokens` in the index, from the table's tail as far as it goes; at most `limit` positions in all.
  void Lookup(const BlockTable& table, std::span<const int32_t> tokens, int64_t limit,
              std::vector<PrefixIndex::Node>* path) const;
  // The most positions, at most `limit`, to which the table could be extended with cached blocks of that path such that
  // all is there that the next token reads: a multiple of the block size, or what the table covers if that is more.
  // `from_host`: with what only the host holds, too.
  int64_t LongestPrefix(const BlockTable& table, std::span<const PrefixIndex::Node> path, int64_t limit,
                        bool from_host = false) const;
  // Extends the table to `num_positions`, a result of LongestPrefix for the same path. What only the host holds goes to
  // blocks that are allocated for it, which must be free, and is appended to `moves`; nobody reads these before the
  // move.
  void Adopt(std::span<const PrefixIndex::Node> path, int64_t num_positions, BlockTable* table,
             std::vector<HostMove>* moves = nullptr);

  // --- host tier ---
  // Blocks of the host that hold a prefix, or will when a move ends.
  int32_t num_on_host() const { return static_cast<int32_t>(host_blocks_.size() - host_blank_.size()); }
  // Chooses from the next `num_next_blocks` to be given out those whose prefix is not on the host, the next ones first
  // and at most `max_moves`, and appends what must be copied there. These copies must be made before anything is
  // written to a block that is allocated after the call.
  void ChooseOffloads(int32_t num_next_blocks, int32_t max_moves, std::vector<HostMove>* moves);
  // Whether the block behind what the table holds is on its way from the host for somebody else. The table's own are
  // all computed.
  bool IsComing(const BlockTable& table, std::span<const int32_t> tokens) const;
  // The copy was made or, without `done`, perhaps not. The block must be held still by the table that it is for.
  void EndMove(const HostMove& move, bool done);

  // Goes through everything and stops the program when it does not add up. For tests: O(num_blocks).
  void CheckInvariants() const;

 private:
  struct Block {
    int32_t refs = 0;
    PrefixIndex::Node node = PrefixIndex::kNoNode;  // the prefix that it holds, if findable
    // Neighbours among the free blocks that hold a prefix, in order of their release.
    int32_t older = kNoBlock;
    int32_t newer = kNoBlock;
    bool is_being_offloaded = false;
  };
  struct HostBlock {
    PrefixIndex::Node node = PrefixIndex::kNoNode;  // the prefix that it holds, if findable
    int32_t readers = 0;                            // moves from here
    std::list<int32_t>::iterator place;             // with a node: in one of the lists
  };

  // The first block that a token at `position` reads.
  int64_t FirstVisible(int64_t position) const;
  // A block whose content is the prefix `node` becomes the one to be found, unless there is one already that is in use.
  void MakeFindable(int32_t block, PrefixIndex::Node node);
  // Forgets prefixes until the index is of a bounded size.
  void TrimIndex();
  // A blank block of the host, if need be the one that was least recently used; kNoBlock where all are being moved.
  int32_t AllocateHost();
  void ForgetHost(int32_t host_block);
  void BeginReading(int32_t host_block);
  void EndReading(int32_t host_block);
  void CheckHostInvariants() const;
  void AppendCached(int32_t block);
  void UnlinkCached(int32_t block);
  // Takes the prefix from a free block, which is blank and nobody's then.
  void Forget(int32_t block);

  const BlockManagerOptions options_;
  PrefixIndex index_;
  std::vector<Block> blocks_;
  std::vector<int32_t> blank_;  // free, and holding nothing; the last is given out first
  int32_t oldest_ = kNoBlock;
  int32_t newest_ = kNoBlock;
  int32_t num_cached_ = 0;
  uint64_t num_releases_ = 0;
  std::vector<HostBlock> host_blocks_;
  std::vector<int32_t> host_blank_;
  // Those that hold a prefix, apart by whether they have readers: the least recently used first, and in no order.
  std::list<int32_t> host_cached_, host_being_read_;
  int32_t num_offloads_ = 0;  // under way
};

}  // namespace moed

#endif  // MOED_KV_CACHE_BLOCK_MANAGER_H_
