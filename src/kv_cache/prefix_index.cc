#include "kv_cache/prefix_index.h"

#include <absl/hash/hash.h>
#include <absl/types/span.h>

#include <algorithm>

#include "base/logging.h"

namespace moed {

PrefixIndex::PrefixIndex(int32_t block_size, uint64_t hash_mask)
    : block_size_(block_size), hash_mask_(hash_mask), by_key_(0, Hash{this}, Equal{this}) {
  MOED_CHECK(block_size > 0);
}

PrefixIndex::Node PrefixIndex::AcquireRoot(std::string_view salt) {
  auto it = roots_.find(salt);
  if (it == roots_.end()) {
    it = roots_.emplace(salt, NewNode()).first;
    nodes_[it->second].salt = &it->first;
  }
  Ref(it->second);
  return it->second;
}

PrefixIndex::Node PrefixIndex::Find(Node parent, std::span<const int32_t> tokens) const {
  const auto it = by_key_.find(MakeKey(parent, tokens));
  return it == by_key_.end() ? kNoNode : *it;
}

PrefixIndex::Node PrefixIndex::Acquire(Node parent, std::span<const int32_t> tokens) {
  const Key key = MakeKey(parent, tokens);
  const auto it = by_key_.find(key);
  if (it != by_key_.end()) {
    Ref(*it);
    return *it;
  }
  const Node node = NewNode();
  Entry& entry = nodes_[node];
  entry.parent = parent;
  entry.hash = key.hash;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + int64_t{node} * block_size_);
  by_key_.insert(node);
  Ref(parent);
  Ref(node);
  return node;
}

void PrefixIndex::Unref(Node node) {
  while (true) {
    Entry& entry = nodes_[node];
    MOED_CHECK(entry.refs > 0, "prefix node {} is not referred to", node);
    if (--entry.refs > 0) return;
    MOED_CHECK(entry.block == kNoBlock && entry.host_block == kNoBlock);
    const Node parent = entry.parent;
    if (entry.salt != nullptr) {
      roots_.erase(roots_.find(*entry.salt));
    } else {
      by_key_.erase(node);
    }
    entry = Entry{};
    unused_.push_back(node);
    --num_nodes_;
    if (parent == kNoNode) return;
    node = parent;  // which the child had referred to
  }
}

void PrefixIndex::AttachBlock(Node node, int32_t block) {
  MOED_CHECK(nodes_[node].block == kNoBlock && nodes_[node].salt == nullptr);
  nodes_[node].block = block;
  Ref(node);
}

void PrefixIndex::DetachBlock(Node node) {
  MOED_CHECK(nodes_[node].block != kNoBlock);
  nodes_[node].block = kNoBlock;
  Unref(node);
}

void PrefixIndex::AttachHostBlock(Node node, int32_t block) {
  MOED_CHECK(nodes_[node].host_block == kNoBlock && nodes_[node].salt == nullptr);
  nodes_[node].host_block = block;
  Ref(node);
}

void PrefixIndex::DetachHostBlock(Node node) {
  MOED_CHECK(nodes_[node].host_block != kNoBlock);
  nodes_[node].host_block = kNoBlock;
  Unref(node);
}

PrefixIndex::Key PrefixIndex::MakeKey(Node parent, std::span<const int32_t> tokens) const {
  MOED_CHECK(tokens.size() == static_cast<size_t>(block_size_));
  return {parent, tokens, absl::HashOf(parent, absl::MakeConstSpan(tokens.data(), tokens.size())) & hash_mask_};
}

bool PrefixIndex::Matches(Node node, const Key& key) const {
  return nodes_[node].hash == key.hash && nodes_[node].parent == key.parent &&
         std::ranges::equal(tokens(node), key.tokens);
}

std::span<const int32_t> PrefixIndex::tokens(Node node) const {
  return {tokens_.data() + int64_t{node} * block_size_, static_cast<size_t>(block_size_)};
}

PrefixIndex::Node PrefixIndex::NewNode() {
  ++num_nodes_;
  if (!unused_.empty()) {
    const Node node = unused_.back();
    unused_.pop_back();
    return node;
  }
  nodes_.emplace_back();
  tokens_.resize(nodes_.size() * block_size_);
  return static_cast<Node>(nodes_.size() - 1);
}

}  // namespace moed
