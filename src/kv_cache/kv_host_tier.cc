#include "kv_cache/kv_host_tier.h"

#include <span>
#include <utility>

#include "base/logging.h"

namespace moed {

absl::StatusOr<KvHostTier> KvHostTier::Create(const PagedKvCache& cache, int32_t num_blocks, Device device) {
  MOED_CHECK(num_blocks >= 1);
  KvHostTier tier(cache, num_blocks);
  for (int32_t group = 0; group < std::ssize(cache.groups()); ++group) {
    auto buffer = Buffer::AllocatePinned(num_blocks * static_cast<size_t>(cache.BytesPerBlock(group)));
    if (!buffer.ok()) return Annotate(buffer.status(), fmt::format("host tier of {} blocks", num_blocks));
    tier.buffers_.push_back(std::move(buffer).value());
  }
  for (Direction* direction : {&tier.to_host_, &tier.from_host_}) {
    MOED_ASSIGN_OR_RETURN(direction->stream, CudaStream::Create(device));
  }
  // A driver that refuses such copies is found out before there are requests.
  for (const bool to_host : {true, false}) {
    tier.Add(0, 0, 0, to_host);
    tier.Start();
    MOED_RETURN_IF_ERROR(tier.Wait());
  }
  return tier;
}

void KvHostTier::Add(int32_t group, int32_t block, int32_t host_block, bool to_host) {
  MOED_CHECK(host_block >= 0 && host_block < num_blocks_);
  std::vector<CudaStream::CopyPiece>& chosen = (to_host ? to_host_ : from_host_).chosen;
  char* there = static_cast<char*>(buffers_[group].data()) + host_block * cache_->BytesPerBlock(group);
  for (const std::span<char> piece : cache_->Pieces(group, block)) {
    chosen.push_back(to_host ? CudaStream::CopyPiece{there, piece.data(), piece.size()}
                             : CudaStream::CopyPiece{piece.data(), there, piece.size()});
    there += piece.size();
  }
}

void KvHostTier::Start() {
  for (Direction* direction : {&from_host_, &to_host_}) {
    direction->stream->CopyAll(direction->chosen);
    direction->chosen.clear();
  }
}

absl::Status KvHostTier::Wait() {
  absl::Status status = from_host_.stream->Synchronize();
  status.Update(to_host_.stream->Synchronize());
  return status;
}

}  // namespace moed
