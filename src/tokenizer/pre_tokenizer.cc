#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/byte_level.h"

namespace moed {
namespace {

// Receives the pieces of one Split in order, matched and not, and passes on what its behaviour makes of them.
template <typename Emit>
class Splitter {
 public:
  Splitter(SplitBehavior behavior, const Emit& emit) : behavior_(behavior), emit_(emit) {}

  absl::Status Piece(size_t begin, size_t end, bool matched) {
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        return emit_(begin, end);
      case SplitBehavior::kRemoved:
        return matched ? absl::OkStatus() : emit_(begin, end);
      case SplitBehavior::kContiguous:
        return Extend(begin, end, matched == previous_matched_, matched);
      case SplitBehavior::kMergedWithPrevious:
        return Extend(begin, end, matched && !previous_matched_, matched);
      case SplitBehavior::kMergedWithNext:
        return Extend(begin, end, held_ && !matched && previous_matched_, matched);
    }
    return absl::OkStatus();
  }

  absl::Status Finish() { return held_ ? emit_(begin_, end_) : absl::OkStatus(); }

 private:
  // Makes the piece part of the one that is held back, or holds it instead.
  absl::Status Extend(size_t begin, size_t end, bool joins, bool matched) {
    previous_matched_ = matched;
    if (held_ && joins) {
      end_ = end;
      return absl::OkStatus();
    }
    const bool had = std::exchange(held_, true);
    const size_t old_begin = std::exchange(begin_, begin), old_end = std::exchange(end_, end);
    return had ? emit_(old_begin, old_end) : absl::OkStatus();
  }

  const SplitBehavior behavior_;
  const Emit& emit_;
  bool held_ = false;
  size_t begin_ = 0, end_ = 0;
  bool previous_matched_ = false;
};

}  // namespace

PreTokenizer::PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {
  if (!steps_.empty() && std::holds_alternative<ByteLevelStep>(steps_.back())) {
    yields_bytes_ = true;
    steps_.pop_back();
  }
}

// One pass of a text through the steps, depth first: a piece goes through all that follow before the next is cut.
struct PreTokenizer::Run {
  const std::vector<PreTokenizerStep>& steps;
  RegexScratch& regex_scratch;
  PreTokenizerScratch& scratch;
  OnWord on_word;

  absl::Status Step(size_t index, std::string_view piece, bool at_start) const {
    if (piece.empty()) return absl::OkStatus();
    if (index == steps.size()) {
      on_word(piece);
      return absl::OkStatus();
    }
    return std::visit([&](const auto& step) { return Do(step, index, piece, at_start); }, steps[index]);
  }

  absl::Status Do(const SplitStep& step, size_t index, std::string_view piece, bool at_start) const {
    if (const auto* regex = std::get_if<std::shared_ptr<const Regex>>(&step.pattern)) {
      return Split(**regex, step, index, piece, at_start);
    }
    if (const auto* literal = std::get_if<std::string>(&step.pattern)) {
      return Split(std::string_view(*literal), step, index, piece, at_start);
    }
    return Split(std::get<CharacterClass>(step.pattern), step, index, piece, at_start);
  }

  template <typename Pattern>
  absl::Status Split(const Pattern& pattern, const SplitStep& step, size_t index, std::string_view piece,
                     bool at_start) const {
    const auto emit = [&](size_t begin, size_t end) {
      return Step(index + 1, piece.substr(begin, end - begin), at_start && begin == 0);
    };
    Splitter splitter(step.behavior, emit);
    size_t done = 0;
    const auto on_match = [&](size_t begin, size_t end) {
      if (done != begin) MOED_RETURN_IF_ERROR(splitter.Piece(done, begin, step.invert));
      done = end;
      return splitter.Piece(begin, end, !step.invert);
    };
    MOED_RETURN_IF_ERROR(ForEachMatch(pattern, piece, regex_scratch, on_match));
    if (done != piece.size()) MOED_RETURN_IF_ERROR(splitter.Piece(done, piece.size(), step.invert));
    return splitter.Finish();
  }

  absl::Status Do(const PrefixSpaceStep&, size_t index, std::string_view piece, bool at_start) const {
    if (piece.front() == ' ') return Step(index + 1, piece, at_start);
    std::string& text = scratch.texts[index];
    text.assign(1, ' ');
    text += piece;
    return Step(index + 1, text, at_start);
  }

  absl::Status Do(const MetaspaceStep& step, size_t index, std::string_view piece, bool at_start) const {
    std::string& text = scratch.texts[index];
    text.clear();
    const bool prepend =
        step.prepend == MetaspaceStep::Prepend::kAlways || (step.prepend == MetaspaceStep::Prepend::kFirst && at_start);
    const bool has_one = piece.front() == ' ' || piece.substr(0, step.replacement.size()) == step.replacement;
    if (prepend && !has_one) text += step.replacement;
    for (const char c : piece) {
      if (c == ' ') {
        text += step.replacement;
      } else {
        text += c;
      }
    }
    return Step(index + 1, text, at_start);
  }

  absl::Status Do(const ByteLevelStep&, size_t index, std::string_view piece, bool at_start) const {
    std::string& text = scratch.texts[index];
    text.clear();
    AppendByteLevel(piece, &text);
    return Step(index + 1, text, at_start);
  }
};

absl::Status PreTokenizer::Apply(std::string_view text, bool at_start, RegexScratch& regex_scratch,
                                 PreTokenizerScratch& scratch, OnWord on_word) const {
  scratch.texts.resize(steps_.size());
  return Run{steps_, regex_scratch, scratch, on_word}.Step(0, text, at_start);
}

}  // namespace moed
