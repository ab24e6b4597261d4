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
    const BlockManagerOptions& options = manager->options();
    if (manager->MaxBlocks(limit, 1) > options.num_blocks) limit = int64_t{options.num_blocks} * options.block_size;
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

int64_t CacheGroups::FindPrefix(std::span<const int32_t> tokens, int32_t position, int64_t limit,
                                const SequenceBlocks& blocks, bool from_host) {
  if (position % alignment_ != 0) return position;
  int64_t length = limit / alignment_ * alignment_;
  for (size_t g = 0; g < managers_.size(); ++g) {
    if (length <= position) return position;
    managers_[g]->Lookup(blocks[g], tokens, length, &paths_[g]);
    length = managers_[g]->LongestPrefix(blocks[g], paths_[g], length, from_host) / alignment_ * alignment_;
  }
  // What one group lacks shortens the others, which, with a window, may then lack something in turn.
  for (int64_t before = length + 1; length < before;) {
    before = length;
    for (size_t g = 0; g < managers_.size() && length > position; ++g) {
      length = managers_[g]->LongestPrefix(blocks[g], paths_[g], length, from_host) / alignment_ * alignment_;
    }
  }
  return std::max<int64_t>(length, position);
}

int32_t CacheGroups::ExtendFromPrefix(std::span<const int32_t> tokens, int32_t position, int32_t limit,
                                      SequenceBlocks* blocks) {
  const int64_t length = FindPrefix(tokens, position, limit, *blocks, /*from_host=*/false);
  for (size_t g = 0; g < managers_.size() && length > position; ++g) {
    managers_[g]->Adopt(paths_[g], length, &(*blocks)[g]);
  }
  return static_cast<int32_t>(length);
}

int32_t CacheGroups::FindOnHost(std::span<const int32_t> tokens, int32_t position, int32_t limit,
                                const SequenceBlocks& blocks) {
  for (size_t g = 0; g < managers_.size(); ++g) {
    // Else what is being computed lies between, and the path does not begin here.
    const int64_t num_indexed = int64_t{blocks[g].num_indexed} * managers_[g]->options().block_size;
    if (managers_[g]->num_on_host() == 0 || num_indexed != position) return position;
  }
  return static_cast<int32_t>(FindPrefix(tokens, position, limit, blocks, /*from_host=*/true));
}

bool CacheGroups::IsComing(std::span<const int32_t> tokens, const SequenceBlocks& blocks) const {
  for (size_t g = 0; g < managers_.size(); ++g) {
    if (managers_[g]->IsComing(blocks[g], tokens)) return true;
  }
  return false;
}

int32_t CacheGroups::Restore(std::span<const int32_t> tokens, int32_t position, int32_t limit, SequenceBlocks* blocks,
                             HostMoves* moves) {
  int64_t fit = limit;
  for (const auto& manager : managers_) {
    fit = std::min(fit, position + int64_t{manager->num_free()} * manager->options().block_size);
  }
  const int32_t length = FindOnHost(tokens, position, static_cast<int32_t>(fit), *blocks);
  if (length == position) return position;
  moves->resize(managers_.size());
  for (size_t g = 0; g < managers_.size(); ++g) managers_[g]->Adopt(paths_[g], length, &(*blocks)[g], &(*moves)[g]);
  return length;
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

void CacheGroups::ChooseOffloads(int32_t num_positions, int32_t num_sequences, int32_t num_steps, HostMoves* moves) {
  moves->resize(managers_.size());
  for (size_t g = 0; g < managers_.size(); ++g) {
    // Each sequence may begin one block more than its positions fill.
    const int32_t of_step = num_positions / managers_[g]->options().block_size + num_sequences;
    managers_[g]->ChooseOffloads(num_steps * of_step, of_step, &(*moves)[g]);
  }
}

void CacheGroups::EndMoves(const HostMoves& moves, bool done) {
  for (size_t g = 0; g < moves.size(); ++g) {
    for (const HostMove& move : moves[g]) managers_[g]->EndMove(move, done);
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
