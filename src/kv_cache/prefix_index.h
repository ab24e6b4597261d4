// Which token sequences the blocks of a cache group hold: a tree of prefixes, one node a full block.
#ifndef MOED_KV_CACHE_PREFIX_INDEX_H_
#define MOED_KV_CACHE_PREFIX_INDEX_H_

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moed {

// Prefix sharing by block hash as in Kwon et al. 2023 (arXiv:2309.06180), but exact: a node's key is the node of the
// block before it and the block's own tokens, and a lookup compares both, not only their hash. Two different prefixes
// can therefore never be taken for each other, whatever collides. Since a child keeps its parent alive, a node's number
// stands for the whole prefix that ends there.
//
// The salt at the root parts those who must not share: tenants (later also adapter versions).
//
// A node lives while somebody refers to it: a cached block here or in the host tier, a child, or a running sequence
// whose tail it is. Lookups cost O(tokens of one block). Not thread-safe.
class PrefixIndex {
 public:
  using Node = int32_t;
  static constexpr Node kNoNode = -1;
  static constexpr int32_t kNoBlock = -1;

  // `block_size`: tokens of a node. `hash_mask` narrows the hash, so that a test can make everything collide.
  explicit PrefixIndex(int32_t block_size, uint64_t hash_mask = ~uint64_t{0});
  PrefixIndex(const PrefixIndex&) = delete;  // the hash set's functions point here
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // The empty prefix of those who share `salt`, with a reference for the caller.
  Node AcquireRoot(std::string_view salt);

  // The prefix that continues `parent` by `tokens` ([block_size]), or kNoNode.
  Node Find(Node parent, std::span<const int32_t> tokens) const;
  // The same, made where it is missing, with a reference for the caller.
  Node Acquire(Node parent, std::span<const int32_t> tokens);

  void Ref(Node node) { ++nodes_[node].refs; }
  // Forgets the node, and its ancestors as far as nothing else needs them, when this was the last reference.
  void Unref(Node node);

  // The block that holds the node's tokens, kNoBlock when none does (any more).
  int32_t block(Node node) const { return nodes_[node].block; }
  // A block is a reference to its node.
  void AttachBlock(Node node, int32_t block);
  void DetachBlock(Node node);

  // The same of a block of the host tier; a node may have both.
  int32_t host_block(Node node) const { return nodes_[node].host_block; }
  void AttachHostBlock(Node node, int32_t block);
  void DetachHostBlock(Node node);

  int32_t num_nodes() const { return num_nodes_; }

 private:
  struct Entry {
    Node parent = kNoNode;
    int32_t refs = 0;
    int32_t block = kNoBlock;
    int32_t host_block = kNoBlock;
    uint64_t hash = 0;
    const std::string* salt = nullptr;  // of a root: its key in roots_
  };
  struct Key {
    Node parent;
    std::span<const int32_t> tokens;
    uint64_t hash;
  };
  struct Hash {
    using is_transparent = void;
    const PrefixIndex* index;
    size_t operator()(Node node) const { return index->nodes_[node].hash; }
    size_t operator()(const Key& key) const { return key.hash; }
  };
  struct Equal {
    using is_transparent = void;
    const PrefixIndex* index;
    bool operator()(Node a, Node b) const { return a == b; }
    bool operator()(Node a, const Key& b) const { return index->Matches(a, b); }
    bool operator()(const Key& a, Node b) const { return index->Matches(b, a); }
  };

  Key MakeKey(Node parent, std::span<const int32_t> tokens) const;
  bool Matches(Node node, const Key& key) const;
  std::span<const int32_t> tokens(Node node) const;
  Node NewNode();

  const int32_t block_size_;
  const uint64_t hash_mask_;
  std::vector<Entry> nodes_;
  std::vector<int32_t> tokens_;  // [nodes_.size(), block_size]
  std::vector<Node> unused_;     // entries of nodes_ without a node
  absl::flat_hash_set<Node, Hash, Equal> by_key_;
  std::map<std::string, Node, std::less<>> roots_;
  int32_t num_nodes_ = 0;
};

}  // namespace moed

#endif  // MOED_KV_CACHE_PREFIX_INDEX_H_
