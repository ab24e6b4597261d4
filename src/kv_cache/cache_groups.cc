#include "kv_cache/cache_groups.h"

#include <algorithm>
#include <numeric>

#include "base/logging.h"

namespace moed {

CacheGroups::CacheGroups(std::span<const BlockManagerOptions> groups) : paths_(groups.size()) {
  MOED_CHECK(!groups.empty());
  for (const BlockManagerOptions& options : groups) {
    managers_.push_back(std::make_unique<BlockManager>(options));
    alignment_ = std::lcm(alignment_, options.block_size);
  }
}

int64_t CacheGroups::MaxPositions(int64_t limit) const {
  for (const auto& manager : managers_) {
    const auto& [num_blocks, block_size, window, caching, mask] = manager->options();
    if (manager->MaxBlocks(limit, 1) > num_blocks) limit = int64_t{num_blocks} * block_size;
  }
  return limit;
}

void CacheGroups::Open(std::string_view salt, SequenceBlocks* blocks) {
  blocks->resize(managers_.size());
  for (size_t g = 0; g < managers_.size(); ++g) managers_[g]->Open(salt, &(*blocks)[g]);
}

void CacheGroups::Release(SequenceBlocks* blocks) {
  for (size_t g = 0; g < blocks->size(); ++g) managers_[g]->Release(&(*blocks)[g]);
}

int32_t CacheGroups::ExtendFromPrefix(std::span<const int32_t> tokens, int32_t position, int32_t limit,
                                      SequenceBlocks* blocks) {
  if (position % alignment_ != 0) return position;
  int64_t length = limit / alignment_ * alignment_;
  for (size_t g = 0; g < managers_.size(); ++g) {
    if (length <= position) return position;
    managers_[g]->Lookup((*blocks)[g], tokens, length, &paths_[g]);
    length = managers_[g]->LongestPrefix((*blocks)[g], paths_[g], length) / alignment_ * alignment_;
  }
  // What one group lacks shortens the others, which, with a window, may then lack something in turn.
  for (int64_t before = length + 1; length < before;) {
    before = length;
    for (size_t g = 0; g < managers_.size() && length > position; ++g) {
      length = managers_[g]->LongestPrefix((*blocks)[g], paths_[g], length) / alignment_ * alignment_;
    }
  }
  if (length <= position) return position;
  for (size_t g = 0; g < managers_.size(); ++g) managers_[g]->Adopt(paths_[g], length, &(*blocks)[g]);
  return static_cast<int32_t>(length);
}

int32_t CacheGroups::Grow(int32_t num_positions, SequenceBlocks* blocks) {
  int64_t fit = num_positions;
  for (size_t g = 0; g < managers_.size(); ++g) fit = std::min(fit, managers_[g]->Capacity((*blocks)[g]));
  for (size_t g = 0; g < managers_.size(); ++g) managers_[g]->Grow(static_cast<int32_t>(fit), &(*blocks)[g]);
  return static_cast<int32_t>(fit);
}

void CacheGroups::Commit(std::span<const int32_t> tokens, int32_t num_computed, SequenceBlocks* blocks) {
  for (size_t g = 0; g < managers_.size(); ++g) {
    managers_[g]->Publish(tokens, num_computed, &(*blocks)[g]);
    managers_[g]->ReleaseBehindWindow(num_computed, &(*blocks)[g]);
  }
}

uint64_t CacheGroups::num_releases() const {
  uint64_t sum = 0;
  for (const auto& manager : managers_) sum += manager->num_releases();
  return sum;
}

const BlockManager& CacheGroups::fullest_group() const {
  const auto share = [](const auto& manager) { return double(manager->num_free()) / manager->options().num_blocks; };
  return **std::ranges::min_element(managers_, {}, share);
}

void CacheGroups::CheckInvariants() const {
  for (const auto& manager : managers_) manager->CheckInvariants();
}

}  // namespace moed
