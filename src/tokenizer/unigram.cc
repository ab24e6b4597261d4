#include "tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace moed {
namespace {

constexpr double kUnknownPenalty = 10;

}  // namespace

Unigram::Unigram(const Vocabulary& vocabulary, std::vector<double> scores, const Options& options)
    : options_(options), scores_(std::move(scores)) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) tokens_.Add(vocabulary.Content(id), id);
  if (!scores_.empty()) unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  byte_ids_.fill(-1);
  if (!options_.byte_fallback) return;
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = vocabulary.Find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
}

void Unigram::Encode(std::string_view text, UnigramScratch& scratch, std::vector<int32_t>* out) const {
  FindBestWay(text, &scratch.nodes);
  scratch.cuts.clear();
  for (auto end = static_cast<int32_t>(text.size()); end > 0; end = scratch.nodes[end].begin) {
    scratch.cuts.push_back(end);
  }
  size_t unknown_begin = 0, begin = 0;
  const auto end_unknown = [&] {
    if (unknown_begin < begin) AppendUnknown(text.substr(unknown_begin, begin - unknown_begin), out);
  };
  for (auto cut = scratch.cuts.rbegin(); cut != scratch.cuts.rend(); ++cut) {
    const int32_t id = scratch.nodes[*cut].id;
    const auto end = static_cast<size_t>(*cut);
    if (id != options_.unknown) {
      end_unknown();
      out->push_back(id);
      unknown_begin = end;
    }
    begin = end;
  }
  end_unknown();
}

void Unigram::FindBestWay(std::string_view text, std::vector<UnigramScratch::Node>* nodes) const {
  nodes->assign(text.size() + 1, {0, -1, options_.unknown});
  for (size_t begin = 0; begin < text.size();) {
    const double score_here = (*nodes)[begin].score;
    const auto offer = [&](size_t end, int32_t id, double score) {
      UnigramScratch::Node& node = (*nodes)[end];
      if (node.begin < 0 || score_here + score > node.score) {
        node = {score_here + score, static_cast<int32_t>(begin), id};
      }
    };
    const size_t behind_character = begin + Utf8Length(text[begin]);
    bool is_token = false;
    tokens_.ForEachPrefix(text, begin, [&](size_t end, int32_t id) {
      is_token = is_token || end == behind_character;
      offer(end, id, scores_[id]);
    });
    if (!is_token) offer(behind_character, options_.unknown, unknown_score_);
    begin = behind_character;
  }
}

void Unigram::AppendUnknown(std::string_view run, std::vector<int32_t>* out) const {
  const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  const bool fallback = options_.byte_fallback && !tokens_.Contains(run) &&
                        std::all_of(run.begin(), run.end(), [&](char byte) { return byte_id(byte) >= 0; });
  if (!fallback) {
    out->push_back(options_.unknown);
    return;
  }
  for (const char byte : run) out->push_back(byte_id(byte));
}

}  // namespace moed
