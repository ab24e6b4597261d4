#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"

namespace moed {

Vocabulary::Vocabulary(size_t expected) : id_limit_(std::min(kMaxId, 2 * static_cast<int64_t>(expected) + kMaxHoles)) {
  contents_.reserve(expected);
  ids_.reserve(expected);
}

absl::Status Vocabulary::Add(std::string_view content, int64_t id) {
  if (id < 0 || id >= id_limit_) {
    return InvalidArgument("token '{}' has the id {}; it must be in [0, {})", content, id, id_limit_);
  }
  if (id < size() && contents_[id].data() != nullptr) {
    return InvalidArgument("tokens '{}' and '{}' have the same id {}", contents_[id], content, id);
  }
  if (ids_.contains(content)) {
    return InvalidArgument("token '{}' has two ids, {} and {}", content, ids_.at(content), id);
  }
  if (id >= size()) contents_.resize(id + 1);
  contents_[id] = Store(content);
  ids_.emplace(contents_[id], static_cast<int32_t>(id));
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::Find(std::string_view content) const {
  const auto found = ids_.find(content);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::string_view Vocabulary::Store(std::string_view content) {
  constexpr size_t kBlockBytes = 64 << 10;
  const size_t bytes = std::max<size_t>(content.size(), 1);  // an empty token is no hole
  if (bytes > block_left_) {
    block_left_ = std::max(bytes, kBlockBytes);
    blocks_.push_back(std::make_unique<char[]>(block_left_));
    block_next_ = blocks_.back().get();
  }
  char* place = block_next_;
  if (!content.empty()) std::memcpy(place, content.data(), content.size());
  block_next_ += bytes;
  block_left_ -= bytes;
  return {place, content.size()};
}

}  // namespace moed
