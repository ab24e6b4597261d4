#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/matches.h"
#include "tokenizer/unicode.h"

namespace moed {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

std::string_view Strip(const StripStep& step, std::string_view text) {
  while (step.left && !text.empty()) {
    size_t position = 0;
    if (!IsWhiteSpace(DecodeUtf8(text, position))) break;
    text.remove_prefix(position);
  }
  while (step.right && !text.empty()) {
    const size_t last = PreviousUtf8(text, text.size());
    size_t position = last;
    if (!IsWhiteSpace(DecodeUtf8(text, position))) break;
    text = text.substr(0, last);
  }
  return text;
}

// Character by character, so that no context counts (a final sigma stays as any other).
void Lowercase(std::string_view text, std::string* out) {
  for (size_t position = 0; position < text.size();) {
    const char32_t c = DecodeUtf8(text, position);
    if (c == 0x130) {  // the only one that becomes two
      out->append("i\xCC\x87");
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
    }
  }
}

void NormalizeAsSentencePiece(const SentencePieceStep& step, std::string_view text, std::string* out) {
  const std::string_view space = step.escape_whitespaces ? kSpaceSymbol : " ";
  const bool collapse = step.remove_extra_whitespaces;
  if (collapse) {
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
    text = text.substr(0, text.find_last_not_of(' ') + 1);
  }
  if (text.empty()) return;
  if (step.add_dummy_prefix) *out += space;
  bool after_space = false;
  for (const char c : text) {
    if (c != ' ') {
      out->push_back(c);
    } else if (!(collapse && after_space)) {
      *out += space;
    }
    after_space = c == ' ';
  }
}

// Applies one step: the result is `text`, a part of it, or written to `out`, which is empty.
struct Application {
  std::string_view text;
  RegexScratch& regex_scratch;
  std::string* out;

  absl::StatusOr<std::string_view> operator()(const UnicodeStep& step) const {
    return NormalizeUnicode(text, step.form, out) ? *out : text;
  }
  absl::StatusOr<std::string_view> operator()(const PrependStep& step) const {
    if (text.empty()) return text;
    out->append(step.text).append(text);
    return *out;
  }
  absl::StatusOr<std::string_view> operator()(const ReplaceStep& step) const {
    MOED_ASSIGN_OR_RETURN(const bool replaced, ReplaceAll(step, text, regex_scratch, out));
    return replaced ? *out : text;
  }
  absl::StatusOr<std::string_view> operator()(const StripStep& step) const { return Strip(step, text); }
  absl::StatusOr<std::string_view> operator()(const LowercaseStep&) const {
    Lowercase(text, out);
    return *out;
  }
  absl::StatusOr<std::string_view> operator()(const SentencePieceStep& step) const {
    NormalizeAsSentencePiece(step, text, out);
    return *out;
  }
};

}  // namespace

absl::StatusOr<std::string_view> Normalizer::Apply(std::string_view text, RegexScratch& regex_scratch,
                                                   NormalizerScratch& scratch) const {
  for (const NormalizerStep& step : steps_) {
    scratch.next.clear();
    MOED_ASSIGN_OR_RETURN(const std::string_view result,
                          std::visit(Application{text, regex_scratch, &scratch.next}, step));
    if (result.data() == scratch.next.data() && !result.empty()) {
      std::swap(scratch.text, scratch.next);
      text = std::string_view(scratch.text);
    } else {
      text = result;
    }
  }
  return text;
}

absl::StatusOr<bool> ReplaceAll(const ReplaceStep& step, std::string_view text, RegexScratch& scratch,
                                std::string* out) {
  size_t copied = 0;
  bool any = false;
  const auto replace = [&](size_t begin, size_t end) {
    out->append(text.substr(copied, begin - copied)).append(step.content);
    copied = end;
    any = true;
    return absl::OkStatus();
  };
  if (const auto* literal = std::get_if<std::string>(&step.pattern)) {
    MOED_RETURN_IF_ERROR(ForEachMatch(std::string_view(*literal), text, scratch, replace));
  } else {
    MOED_RETURN_IF_ERROR(ForEachMatch(*std::get<1>(step.pattern), text, scratch, replace));
  }
  if (any) out->append(text.substr(copied));
  return any;
}

}  // namespace moed
