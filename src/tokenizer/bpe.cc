#include "tokenizer/bpe.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "base/logging.h"
#include "base/utf8.h"
#include "tokenizer/byte_level.h"

namespace moed {
namespace {

constexpr size_t kBmp = 0x10000;
// Up to here, looking at every pair for each merge is faster than a heap.
constexpr size_t kFew = 48;

uint64_t HeapKey(uint32_t rank, size_t index) { return static_cast<uint64_t>(rank) << 32 | index; }

// Whether any merge makes a token in which `c` comes behind another character.
bool AnyMergeCrosses(const Vocabulary& vocabulary, const std::vector<Merge>& merges, char32_t c) {
  for (const Merge& merge : merges) {
    const std::string_view content = vocabulary.Content(merge.merged);
    bool others_before = false;
    for (size_t position = 0; position < content.size();) {
      const bool is_start = DecodeUtf8(content, position) == c;
      if (is_start && others_before) return true;
      others_before = others_before || !is_start;
    }
  }
  return false;
}

}  // namespace

Bpe::Bpe(const Vocabulary& vocabulary, const std::vector<Merge>& merges, const Options& options,
         const std::vector<char32_t>& virtual_symbols)
    : options_(options), vocab_size_(vocabulary.size()), merges_(merges.size()) {
  for (const Merge& merge : merges) merges_.Insert(merge);
  byte_ids_.fill(-1);
  if (!options_.byte_level) characters_.assign(kBmp, -1);
  std::vector<std::pair<std::string, int32_t>> words;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.Contains(id)) continue;
    const std::string_view content = vocabulary.Content(id);
    std::string bytes;
    if (options_.byte_level && !AppendByteLevelBytes(content, &bytes)) continue;
    if (!options_.byte_level) bytes = content;
    if (options_.ignore_merges) words.emplace_back(bytes, id);
    if (bytes.empty()) continue;
    if (options_.byte_level) {
      if (bytes.size() == 1) byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
    } else if (bytes.size() == static_cast<size_t>(Utf8Length(bytes[0]))) {
      size_t position = 0;
      const char32_t c = DecodeUtf8(bytes, position);
      (c < kBmp ? characters_[c] : high_characters_[c]) = id;
    }
  }
  if (options_.byte_fallback && !options_.byte_level) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocabulary.Find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
    }
  }
  for (size_t i = 0; i < virtual_symbols.size(); ++i) {
    const char32_t c = virtual_symbols[i];
    std::string character;
    AppendUtf8(c, &character);
    AppendUnknown(character, &virtual_symbols_.emplace_back());
    (c < kBmp ? characters_[c] : high_characters_[c]) = vocab_size_ + static_cast<int32_t>(i);
  }
  for (const auto& [word, id] : words) whole_word_bytes_.insert(whole_word_bytes_.end(), word.begin(), word.end());
  size_t offset = 0;
  for (const auto& [word, id] : words) {
    whole_words_.emplace(std::string_view(whole_word_bytes_.data() + offset, word.size()), id);
    offset += word.size();
  }
  // A character that vanishes would let its neighbours meet, whatever was cut.
  const bool none_vanish = options_.unknown.has_value() || std::count(byte_ids_.begin(), byte_ids_.end(), -1) == 0;
  cut_words_ = options_.word_start != 0 && !options_.byte_level && !options_.ignore_merges && none_vanish &&
               FindCharacter(options_.word_start) >= 0 && !AnyMergeCrosses(vocabulary, merges, options_.word_start);
}

void Bpe::Encode(std::string_view text, BpeScratch& scratch, std::vector<int32_t>* out) const {
  if (!cut_words_) {
    EncodeWord(text, scratch, out);
    return;
  }
  std::string start;
  AppendUtf8(options_.word_start, &start);
  size_t begin = 0, behind_run = 0;  // of the word; of the run of word_start that it begins with
  while (begin < text.size()) {
    behind_run = begin;
    while (text.compare(behind_run, start.size(), start) == 0) behind_run += start.size();
    const size_t end = std::min(text.find(start, behind_run), text.size());
    EncodeWord(text.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

void Bpe::EncodeWord(std::string_view word, BpeScratch& scratch, std::vector<int32_t>* out) const {
  if (word.empty()) return;
  const bool cached = word.size() <= WordCache::kMaxWordBytes;
  const uint64_t hash = cached ? WordCache::Hash(word) : 0;
  if (cached && scratch.cache.Lookup(word, hash, out)) return;
  const size_t before = out->size();
  const auto whole = options_.ignore_merges ? whole_words_.find(word) : whole_words_.end();
  if (whole != whole_words_.end()) {
    out->push_back(whole->second);
  } else {
    scratch.ids.clear();
    Split(word, &scratch.ids);
    if (scratch.ids.size() <= kFew) {
      MergeFew(scratch);
    } else {
      MergeMany(scratch);
    }
    Emit(scratch.ids, out);
  }
  if (cached) scratch.cache.Insert(word, hash, out->data() + before, out->size() - before);
}

void Bpe::Split(std::string_view word, std::vector<int32_t>* ids) const {
  if (options_.byte_level) {
    for (const char byte : word) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
      if (id >= 0) {
        ids->push_back(id);
      } else if (options_.unknown.has_value()) {
        ids->push_back(*options_.unknown);
      }
    }
    return;
  }
  for (size_t position = 0; position < word.size();) {
    const size_t begin = position;
    const int32_t id = FindCharacter(DecodeUtf8(word, position));
    if (id >= 0) {
      ids->push_back(id);
    } else {
      AppendUnknown(word.substr(begin, position - begin), ids);
    }
  }
}

void Bpe::AppendUnknown(std::string_view character, std::vector<int32_t>* ids) const {
  const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  const bool fallback = options_.byte_fallback &&
                        std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte) >= 0; });
  if (fallback) {
    for (const char byte : character) ids->push_back(byte_id(byte));
  } else if (options_.unknown.has_value()) {
    ids->push_back(*options_.unknown);
  }
}

void Bpe::MergeFew(BpeScratch& scratch) const {
  std::vector<int32_t>& ids = scratch.ids;
  size_t size = ids.size();
  if (size < 2) return;
  uint32_t ranks[kFew];  // of each symbol with the next one
  int32_t merged[kFew];
  const auto look = [&](size_t i) {
    const Merge& merge = merges_.Find(ids[i], ids[i + 1]);
    ranks[i] = merge.rank;
    merged[i] = merge.merged;
  };
  for (size_t i = 0; i + 1 < size; ++i) look(i);
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == MergeTable::kNoRank) break;
    ids[best] = merged[best];
    --size;
    const size_t behind = size - (best + 1);  // symbols that move up
    std::memmove(&ids[best + 1], &ids[best + 2], behind * sizeof(int32_t));
    std::memmove(&ranks[best], &ranks[best + 1], behind * sizeof(uint32_t));
    std::memmove(&merged[best], &merged[best + 1], behind * sizeof(int32_t));
    if (best > 0) look(best - 1);
    if (best + 1 < size) look(best);
  }
  ids.resize(size);
}

void Bpe::MergeMany(BpeScratch& scratch) const {
  std::vector<BpeScratch::Symbol>& symbols = scratch.symbols;
  std::vector<uint64_t>& heap = scratch.heap;
  const auto size = static_cast<int32_t>(scratch.ids.size());
  symbols.resize(size);
  heap.clear();
  const auto look = [&](int32_t i) {
    BpeScratch::Symbol& symbol = symbols[i];
    const Merge* merge = symbol.next < 0 ? nullptr : &merges_.Find(symbol.id, symbols[symbol.next].id);
    symbol.rank = merge == nullptr ? MergeTable::kNoRank : merge->rank;
    symbol.merged = merge == nullptr ? -1 : merge->merged;
    return symbol.rank != MergeTable::kNoRank;
  };
  for (int32_t i = 0; i < size; ++i) {
    symbols[i] = {scratch.ids[i], i - 1, i + 1 < size ? i + 1 : -1, MergeTable::kNoRank, -1};
  }
  for (int32_t i = 0; i < size; ++i) {
    if (look(i)) heap.push_back(HeapKey(symbols[i].rank, i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t i) {
    if (!look(i)) return;
    heap.push_back(HeapKey(symbols[i].rank, i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto i = static_cast<int32_t>(heap.back() & 0xFFFFFFFFu);
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[i];
    if (left.rank != rank) continue;  // one of the two has been merged with another meanwhile
    BpeScratch::Symbol& right = symbols[left.next];
    left.id = left.merged;
    left.next = right.next;
    right.rank = MergeTable::kNoRank;
    if (left.next >= 0) symbols[left.next].previous = i;
    push(i);
    if (left.previous >= 0) push(left.previous);
  }
  scratch.ids.clear();
  for (int32_t i = size > 0 ? 0 : -1; i >= 0; i = symbols[i].next) scratch.ids.push_back(symbols[i].id);
}

void Bpe::Emit(const std::vector<int32_t>& ids, std::vector<int32_t>* out) const {
  if (virtual_symbols_.empty() && !options_.fuse_unknown) {
    out->insert(out->end(), ids.begin(), ids.end());
    return;
  }
  bool after_unknown = false;
  const auto put = [&](int32_t id) {
    const bool unknown = options_.unknown.has_value() && id == *options_.unknown;
    if (!(unknown && after_unknown && options_.fuse_unknown)) out->push_back(id);
    after_unknown = unknown;
  };
  for (const int32_t id : ids) {
    if (id < vocab_size_) {
      put(id);
    } else {
      for (const int32_t piece : virtual_symbols_[id - vocab_size_]) put(piece);
    }
  }
}

int32_t Bpe::FindCharacter(char32_t c) const {
  if (c < kBmp) return characters_[c];
  const auto found = high_characters_.find(c);
  return found == high_characters_.end() ? -1 : found->second;
}

}  // namespace moed
