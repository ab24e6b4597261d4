// A GPU's blocks of keys and values in the host's memory: the bytes; which block is where is BlockManager's business.
#ifndef MOED_KV_CACHE_KV_HOST_TIER_H_
#define MOED_KV_CACHE_KV_HOST_TIER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kv_cache/paged_kv_cache.h"
#include "tensor/buffer.h"
#include "tensor/cuda_stream.h"

namespace moed {

// Copies run in two streams of the tier's own, one for each direction, beside the kernels of a step. A block lies in
// one piece here, all its layers one after the other. One thread at a time.
class KvHostTier {
 public:
  // `num_blocks` for each group of the cache, which must outlive the tier. RESOURCE_EXHAUSTED when there is not that
  // much memory that can be pinned; INTERNAL where a first copy there and back fails.
  static absl::StatusOr<KvHostTier> Create(const PagedKvCache& cache, int32_t num_blocks, Device device);

  int32_t num_blocks() const { return num_blocks_; }

  // Chooses a copy between block `block` of the group and `host_block`. Until Wait() nothing that one copy writes may
  // be read or written by another.
  void Add(int32_t group, int32_t block, int32_t host_block, bool to_host);
  // Starts the copies that were chosen. They must not depend on what the host or another stream is still to do: for
  // several steps in flight there would have to be events between the streams.
  void Start();
  // Waits for them. The error of CudaStream::Synchronize.
  absl::Status Wait();

 private:
  struct Direction {
    std::vector<CudaStream::CopyPiece> chosen;
    std::unique_ptr<CudaStream> stream;
  };

  KvHostTier(const PagedKvCache& cache, int32_t num_blocks) : cache_(&cache), num_blocks_(num_blocks) {}

  const PagedKvCache* cache_;
  int32_t num_blocks_;
  std::vector<Buffer> buffers_;    // [num_groups], each [num_blocks, bytes of a block]
  Direction to_host_, from_host_;  // the last members: their streams end before the memory does
};

}  // namespace moed

#endif  // MOED_KV_CACHE_KV_HOST_TIER_H_
