#include "kv_cache/block_manager.h"

#include <algorithm>

#include "base/logging.h"

namespace moed {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A sliding window releases blocks whose nodes must stay, as the path to those behind. Without a limit a few cached
// tails of long sequences could keep millions of them; this many cost some 25 MB at 16 tokens a block.
constexpr int32_t kMinNodeLimit = 1 << 18;

}  // namespace

BlockManager::BlockManager(const BlockManagerOptions& options)
    : options_(options),
      index_(options.block_size, options.prefix_hash_mask),
      blocks_(options.num_blocks),
      host_blocks_(options.enable_prefix_caching ? options.num_host_blocks : 0) {
  MOED_CHECK(options.num_blocks > 0 && options.block_size > 0 && options.window >= 0 && options.num_host_blocks >= 0);
  blank_.reserve(options.num_blocks);
  for (int32_t id = options.num_blocks - 1; id >= 0; --id) blank_.push_back(id);
  for (int32_t id = static_cast<int32_t>(host_blocks_.size()) - 1; id >= 0; --id) host_blank_.push_back(id);
}

// ------------------------------------------------------------------------------------------------------ single blocks

int32_t BlockManager::Allocate() {
  MOED_CHECK(num_free() > 0, "no free block among {}", options_.num_blocks);
  if (blank_.empty()) Forget(oldest_);
  const int32_t block = blank_.back();
  blank_.pop_back();
  MOED_CHECK(blocks_[block].refs == 0);
  blocks_[block].refs = 1;
  return block;
}

void BlockManager::Ref(int32_t block) {
  Block& b = blocks_[block];
  if (b.refs == 0) {
    MOED_CHECK(b.node != PrefixIndex::kNoNode, "block {} is free and holds nothing to be shared", block);
    UnlinkCached(block);
  }
  ++b.refs;
}

void BlockManager::Unref(int32_t block) {
  Block& b = blocks_[block];
  MOED_CHECK(b.refs > 0, "block {} is released twice", block);
  if (--b.refs > 0) return;
  ++num_releases_;
  if (b.node != PrefixIndex::kNoNode) {
    AppendCached(block);
  } else {
    blank_.push_back(block);
  }
}

void BlockManager::AppendCached(int32_t block) {
  Block& b = blocks_[block];
  b.older = newest_;
  b.newer = kNoBlock;
  (newest_ == kNoBlock ? oldest_ : blocks_[newest_].newer) = block;
  newest_ = block;
  ++num_cached_;
}

void BlockManager::UnlinkCached(int32_t block) {
  Block& b = blocks_[block];
  (b.older == kNoBlock ? oldest_ : blocks_[b.older].newer) = b.newer;
  (b.newer == kNoBlock ? newest_ : blocks_[b.newer].older) = b.older;
  b.older = b.newer = kNoBlock;
  --num_cached_;
}

void BlockManager::Forget(int32_t block) {
  Block& b = blocks_[block];
  MOED_CHECK(b.refs == 0 && b.node != PrefixIndex::kNoNode);
  UnlinkCached(block);
  index_.DetachBlock(b.node);
  b.node = PrefixIndex::kNoNode;
  b.is_being_offloaded = false;
  blank_.push_back(block);
}

// ------------------------------------------------------------------------------------------------------------- tables

void BlockManager::Open(std::string_view salt, BlockTable* table) {
  MOED_CHECK(table->ids.empty() && table->tail == PrefixIndex::kNoNode, "the table is open already");
  if (options_.enable_prefix_caching) table->tail = index_.AcquireRoot(salt);
}

void BlockManager::Release(BlockTable* table) {
  for (auto it = table->ids.rbegin(); it != table->ids.rend(); ++it) {
    if (*it != kNoBlock) Unref(*it);
  }
  if (table->tail != PrefixIndex::kNoNode) index_.Unref(table->tail);
  table->ids.clear();
  table->num_behind = 0;
  table->num_indexed = 0;
  table->tail = PrefixIndex::kNoNode;
}

void BlockManager::Grow(int32_t num_positions, BlockTable* table) {
  const size_t num_blocks = CeilDiv(num_positions, options_.block_size);
  while (table->ids.size() < num_blocks) table->ids.push_back(Allocate());
}

int64_t BlockManager::FirstVisible(int64_t position) const {
  if (options_.window == 0) return 0;
  return std::max<int64_t>(0, position - options_.window + 1) / options_.block_size;
}

void BlockManager::ReleaseBehindWindow(int32_t position, BlockTable* table) {
  const int64_t end = std::min<int64_t>(FirstVisible(position), table->ids.size());
  for (; table->num_behind < end; ++table->num_behind) {
    int32_t& block = table->ids[table->num_behind];
    if (block != kNoBlock) Unref(block);
    block = kNoBlock;
  }
}

int64_t BlockManager::MaxBlocks(int64_t num_positions, int64_t step) const {
  const int64_t all = CeilDiv(num_positions, options_.block_size);
  if (options_.window == 0) return all;
  // Any run of n positions touches at most ceil((n - 1) / block_size) + 1 blocks.
  return std::min(all, CeilDiv(options_.window - 1 + step - 1, options_.block_size) + 1);
}

// ----------------------------------------------------------------------------------------------------------- prefixes

void BlockManager::Publish(std::span<const int32_t> tokens, int32_t num_computed, BlockTable* table) {
  if (!options_.enable_prefix_caching) return;
  MOED_CHECK(table->tail != PrefixIndex::kNoNode, "the table is not open");
  const int32_t size = options_.block_size;
  while (int64_t{table->num_indexed + 1} * size <= num_computed) {
    const int32_t i = table->num_indexed++;
    const PrefixIndex::Node node = index_.Acquire(table->tail, tokens.subspan(int64_t{i} * size, size));
    index_.Unref(table->tail);  // lives on as the parent of `node`
    table->tail = node;
    const int32_t mine = table->ids[i];
    if (mine == kNoBlock) continue;
    MakeFindable(mine, node);
  }
  TrimIndex();
}

void BlockManager::MakeFindable(int32_t block, PrefixIndex::Node node) {
  const int32_t cached = index_.block(node);
  if (cached == block) return;
  if (cached != kNoBlock) {
    if (blocks_[cached].refs > 0) return;  // somebody computed the same: his is the one to be found
    Forget(cached);                        // a copy that is in use lives longer
  }
  index_.AttachBlock(node, block);
  blocks_[block].node = node;
}

void BlockManager::TrimIndex() {
  const int64_t num_blocks = int64_t{options_.num_blocks} + std::ssize(host_blocks_);
  const int64_t limit = std::max<int64_t>(4 * num_blocks, kMinNodeLimit);
  while (index_.num_nodes() > limit && (!host_cached_.empty() || num_cached_ > 0)) {
    host_cached_.empty() ? Forget(oldest_) : ForgetHost(host_cached_.front());
  }
}

void BlockManager::Lookup(const BlockTable& table, std::span<const int32_t> tokens, int64_t limit,
                          std::vector<PrefixIndex::Node>* path) const {
  path->clear();
  if (!options_.enable_prefix_caching) return;
  MOED_CHECK(table.tail != PrefixIndex::kNoNode, "the table is not open");
  const int64_t size = options_.block_size;
  limit = std::min<int64_t>(limit, tokens.size());
  PrefixIndex::Node node = table.tail;
  for (int64_t i = table.num_indexed; (i + 1) * size <= limit; ++i) {
    node = index_.Find(node, tokens.subspan(i * size, size));
    if (node == PrefixIndex::kNoNode) return;
    path->push_back(node);
  }
}

int64_t BlockManager::LongestPrefix(const BlockTable& table, std::span<const PrefixIndex::Node> path, int64_t limit,
                                    bool from_host) const {
  const int64_t size = options_.block_size;
  const int64_t held = table.ids.size();
  const int64_t end = std::min<int64_t>(table.num_indexed + static_cast<int64_t>(path.size()), limit / size);
  const auto is_somewhere = [&](PrefixIndex::Node node) {
    return index_.block(node) != kNoBlock || (from_host && index_.host_block(node) != kNoBlock);
  };
  int64_t best = held;
  // Blocks [present, i] are all there, the table's own or cached.
  int64_t present = table.num_behind;
  for (int64_t i = table.num_behind; i < end; ++i) {
    const bool own = i < held && table.ids[i] != kNoBlock;
    if (!own && (i < held || !is_somewhere(path[i - table.num_indexed]))) {
      if (options_.window == 0) break;
      present = i + 1;
    } else if (i >= held && present <= FirstVisible((i + 1) * size)) {
      best = i + 1;
    }
  }
  return best * size;
}

bool BlockManager::IsComing(const BlockTable& table, std::span<const int32_t> tokens) const {
  const int64_t size = options_.block_size;
  const int64_t begin = table.num_indexed * size;
  if (host_being_read_.empty() || begin + size > std::ssize(tokens)) return false;
  const PrefixIndex::Node node = index_.Find(table.tail, tokens.subspan(begin, size));
  if (node == PrefixIndex::kNoNode || index_.block(node) != kNoBlock) return false;
  const int32_t there = index_.host_block(node);
  return there != kNoBlock && host_blocks_[there].readers > 0;
}

void BlockManager::Adopt(std::span<const PrefixIndex::Node> path, int64_t num_positions, BlockTable* table,
                         std::vector<HostMove>* moves) {
  const int64_t num_blocks = num_positions / options_.block_size;
  const int64_t first = FirstVisible(num_positions);
  const int64_t held = table->ids.size();
  if (num_blocks <= held) return;
  for (int64_t i = held; i < num_blocks; ++i) {
    const int32_t block = i < first ? kNoBlock : index_.block(path[i - table->num_indexed]);
    if (block != kNoBlock) Ref(block);
    table->ids.push_back(block);
  }
  // After what is here was taken, so that making room does not push it out; from the tail, which then is the older one
  // on the host, too.
  for (int64_t i = num_blocks - 1; i >= std::max(first, held); --i) {
    if (table->ids[i] != kNoBlock) continue;
    const PrefixIndex::Node node = path[i - table->num_indexed];
    const HostMove move{.node = node, .block = Allocate(), .host_block = index_.host_block(node), .to_host = false};
    MOED_CHECK(moves != nullptr && move.host_block != kNoBlock, "block {} of the path is nowhere", i);
    index_.Ref(node);
    BeginReading(move.host_block);
    moves->push_back(move);
    table->ids[i] = move.block;
  }
  if (table->num_behind == held) table->num_behind = std::min(first, num_blocks);
  if (table->num_indexed < held) return;  // Publish() comes along this path once the table's own blocks are computed
  const PrefixIndex::Node tail = path[num_blocks - 1 - table->num_indexed];
  index_.Ref(tail);
  index_.Unref(table->tail);
  table->tail = tail;
  table->num_indexed = num_blocks;
}

// ---------------------------------------------------------------------------------------------------------- host tier

void BlockManager::ChooseOffloads(int32_t num_next_blocks, int32_t max_moves, std::vector<HostMove>* moves) {
  // More than the host holds would push each other out, step by step.
  const int64_t num_cached = std::min<int64_t>(int64_t{num_next_blocks} - std::ssize(blank_), std::ssize(host_blocks_));
  std::vector<int32_t> chosen;
  int32_t block = oldest_;
  for (int64_t i = 0; i < num_cached && block != kNoBlock; ++i, block = blocks_[block].newer) {
    const int32_t there = index_.host_block(blocks_[block].node);
    if (there == kNoBlock) {
      if (!blocks_[block].is_being_offloaded && std::ssize(chosen) < max_moves) chosen.push_back(block);
    } else if (host_blocks_[there].readers == 0) {
      // Soon the only copy: the last to make room for the others.
      host_cached_.splice(host_cached_.end(), host_cached_, host_blocks_[there].place);
    }
  }
  for (const int32_t next : chosen) {
    const int32_t host_block = AllocateHost();
    if (host_block == kNoBlock) return;
    Block& b = blocks_[next];
    b.is_being_offloaded = true;
    ++num_offloads_;
    index_.Ref(b.node);
    moves->push_back({.node = b.node, .block = next, .host_block = host_block, .to_host = true});
  }
}

void BlockManager::EndMove(const HostMove& move, bool done) {
  Block& block = blocks_[move.block];
  if (!move.to_host) {
    MOED_CHECK(block.refs > 0 && block.node == PrefixIndex::kNoNode, "block {} is being filled", move.block);
    if (done) MakeFindable(move.block, move.node);
    EndReading(move.host_block);
  } else {
    if (block.node == move.node) block.is_being_offloaded = false;
    --num_offloads_;
    if (done && index_.host_block(move.node) == kNoBlock) {
      index_.AttachHostBlock(move.node, move.host_block);
      HostBlock& there = host_blocks_[move.host_block];
      there.node = move.node;
      there.place = host_cached_.insert(host_cached_.end(), move.host_block);
    } else {
      host_blank_.push_back(move.host_block);
    }
  }
  index_.Unref(move.node);
}

int32_t BlockManager::AllocateHost() {
  if (host_blank_.empty()) {
    if (host_cached_.empty()) return kNoBlock;
    ForgetHost(host_cached_.front());
  }
  const int32_t host_block = host_blank_.back();
  host_blank_.pop_back();
  return host_block;
}

void BlockManager::ForgetHost(int32_t host_block) {
  HostBlock& there = host_blocks_[host_block];
  host_cached_.erase(there.place);
  index_.DetachHostBlock(there.node);
  there.node = PrefixIndex::kNoNode;
  host_blank_.push_back(host_block);
}

void BlockManager::BeginReading(int32_t host_block) {
  HostBlock& there = host_blocks_[host_block];
  if (there.readers++ == 0) host_being_read_.splice(host_being_read_.end(), host_cached_, there.place);
}

void BlockManager::EndReading(int32_t host_block) {
  HostBlock& there = host_blocks_[host_block];
  MOED_CHECK(there.readers > 0);
  if (--there.readers == 0) host_cached_.splice(host_cached_.end(), host_being_read_, there.place);
}

// ---------------------------------------------------------------------------------------------------------- for tests

void BlockManager::CheckInvariants() const {
  std::vector<bool> listed(blocks_.size(), false);
  for (const int32_t block : blank_) {
    MOED_CHECK(!listed[block] && blocks_[block].refs == 0 && blocks_[block].node == PrefixIndex::kNoNode,
               "blank block {}", block);
    listed[block] = true;
  }
  int32_t num_cached = 0;
  for (int32_t block = oldest_, older = kNoBlock; block != kNoBlock; older = block, block = blocks_[block].newer) {
    MOED_CHECK(!listed[block] && blocks_[block].refs == 0 && blocks_[block].older == older, "cached block {}", block);
    MOED_CHECK(blocks_[block].node != PrefixIndex::kNoNode, "cached block {} holds nothing", block);
    listed[block] = true;
    ++num_cached;
  }
  MOED_CHECK(num_cached == num_cached_);
  for (size_t block = 0; block < blocks_.size(); ++block) {
    const Block& b = blocks_[block];
    MOED_CHECK(listed[block] == (b.refs == 0), "block {} has {} references", block, b.refs);
    MOED_CHECK(b.node == PrefixIndex::kNoNode || index_.block(b.node) == static_cast<int32_t>(block), "block {}",
               block);
  }
  CheckHostInvariants();
}

void BlockManager::CheckHostInvariants() const {
  std::vector<bool> blank(host_blocks_.size(), false);
  for (const int32_t host_block : host_blank_) {
    MOED_CHECK(!blank[host_block] && host_blocks_[host_block].node == PrefixIndex::kNoNode, "host block {}",
               host_block);
    blank[host_block] = true;
  }
  int64_t num_cached = 0, num_read = 0;
  for (size_t host_block = 0; host_block < host_blocks_.size(); ++host_block) {
    const HostBlock& there = host_blocks_[host_block];
    if (there.node == PrefixIndex::kNoNode) {
      MOED_CHECK(there.readers == 0, "host block {} holds nothing and is read", host_block);
      continue;
    }
    MOED_CHECK(index_.host_block(there.node) == static_cast<int32_t>(host_block), "host block {}", host_block);
    MOED_CHECK(*there.place == static_cast<int32_t>(host_block), "host block {}", host_block);
    ++(there.readers == 0 ? num_cached : num_read);
  }
  MOED_CHECK(num_cached == std::ssize(host_cached_) && num_read == std::ssize(host_being_read_));
  const int64_t num_under_way = std::ssize(host_blocks_) - std::ssize(host_blank_) - num_cached - num_read;
  MOED_CHECK(num_under_way == num_offloads_, "{} host blocks are nobody's", num_under_way - num_offloads_);
}

}  // namespace moed
