// The merges of a byte-pair encoding: from two neighbouring symbols to the one that replaces them.
#ifndef MOED_TOKENIZER_MERGE_TABLE_H_
#define MOED_TOKENIZER_MERGE_TABLE_H_

#include <bit>
#include <cstdint>
#include <vector>

namespace moed {

struct Merge {
  int32_t left, right;
  uint32_t rank;   // lower merges first
  int32_t merged;  // the symbol that replaces both
};

// An open-addressing hash table, read-only once filled: every step of encoding asks it, mostly in vain.
class MergeTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  MergeTable() : MergeTable(0) {}
  explicit MergeTable(size_t num_merges) : slots_(std::bit_ceil(2 * num_merges + 2), Merge{-1, -1, kNoRank, -1}) {
    mask_ = slots_.size() - 1;
  }

  // At most `num_merges` different pairs; a pair that is there already is overwritten.
  void Insert(const Merge& merge) {
    size_t slot = Hash(merge.left, merge.right);
    while (slots_[slot].left >= 0 && !Holds(slot, merge.left, merge.right)) slot = (slot + 1) & mask_;
    slots_[slot] = merge;
  }

  // The merge of the two, or one with kNoRank. Symbols are not negative.
  const Merge& Find(int32_t left, int32_t right) const {
    size_t slot = Hash(left, right);
    while (slots_[slot].left >= 0 && !Holds(slot, left, right)) slot = (slot + 1) & mask_;
    return slots_[slot];
  }

 private:
  bool Holds(size_t slot, int32_t left, int32_t right) const {
    return slots_[slot].left == left && slots_[slot].right == right;
  }
  size_t Hash(int32_t left, int32_t right) const {
    const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    const uint64_t product = key * 0x9E3779B97F4A7C15u;
    return (product ^ product >> 32) & mask_;
  }

  std::vector<Merge> slots_;
  size_t mask_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_MERGE_TABLE_H_
