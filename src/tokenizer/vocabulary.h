// The tokens of a tokenizer, by id and by content.
#ifndef MOED_TOKENIZER_VOCABULARY_H_
#define MOED_TOKENIZER_VOCABULARY_H_

#include <absl/container/flat_hash_map.h>
#include <absl/status/status.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moed {

struct StringViewHash {
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenIndex = absl::flat_hash_map<std::string_view, int32_t, StringViewHash, std::equal_to<std::string_view>>;

// Contents are written as the tokenizer's file writes them ("Ġthe", "▁the", "<0x0A>"). Ids may have holes.
class Vocabulary {
 public:
  // Ids run at most this far beyond twice the number of tokens, so that a small file cannot ask for much memory.
  static constexpr int64_t kMaxHoles = 1 << 16;
  static constexpr int64_t kMaxId = 1 << 24;

  // At most `expected` tokens will be added.
  explicit Vocabulary(size_t expected = 0);

  // INVALID_ARGUMENT when the id is out of bounds, or the id or the content is taken.
  absl::Status Add(std::string_view content, int64_t id);

  std::optional<int32_t> Find(std::string_view content) const;

  // Empty for a hole; 0 <= id < size().
  std::string_view Content(int32_t id) const { return contents_[id]; }
  bool Contains(int32_t id) const { return id >= 0 && id < size() && contents_[id].data() != nullptr; }

  // The largest id plus one.
  int32_t size() const { return static_cast<int32_t>(contents_.size()); }

 private:
  std::string_view Store(std::string_view content);

  // Contents lie in blocks that never move, so that views of them stay valid.
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t block_left_ = 0;
  char* block_next_ = nullptr;

  int64_t id_limit_;
  std::vector<std::string_view> contents_;  // [size]; null data is a hole
  TokenIndex ids_;
};

}  // namespace moed

#endif  // MOED_TOKENIZER_VOCABULARY_H_
