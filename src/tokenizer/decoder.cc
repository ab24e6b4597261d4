#include "tokenizer/decoder.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/utf8.h"
#include "tokenizer/byte_level.h"

namespace moed {
namespace {

// The byte that a token like <0x0A> stands for, or -1.
int FallbackByte(std::string_view content) {
  if (content.size() != 6 || content.substr(0, 3) != "<0x" || content[5] != '>') return -1;
  int byte = 0;
  for (const char digit : content.substr(3, 2)) {
    const int value = digit >= '0' && digit <= '9'   ? digit - '0'
                      : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                      : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                                     : -1;
    if (value < 0) return -1;
    byte = 16 * byte + value;
  }
  return byte;
}

// How many bytes of `text` the next `limit` characters take if they are all `content`, up to the first that is not.
size_t LeadingRun(std::string_view text, char32_t content, int limit, int* count) {
  size_t end = 0;
  for (*count = 0; *count < limit && end < text.size(); ++*count) {
    size_t next = end;
    if (DecodeUtf8(text, next) != content) break;
    end = next;
  }
  return end;
}

// Where the last characters begin that are `content`, at most `limit` of them.
size_t TrailingRun(std::string_view text, char32_t content, int limit) {
  size_t begin = text.size();
  for (int i = 0; i < limit && begin > 0; ++i) {
    const size_t previous = PreviousUtf8(text, begin);
    size_t position = previous;
    if (DecodeUtf8(text, position) != content) break;
    begin = previous;
  }
  return begin;
}

std::string ReplaceLiteral(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  size_t done = 0;
  for (size_t found = text.find(from); found != std::string_view::npos; found = text.find(from, done)) {
    result.append(text.substr(done, found - done)).append(to);
    done = found + from.size();
  }
  return result.append(text.substr(done));
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Create(Options options, const Vocabulary& vocabulary) {
  Decoder decoder;
  decoder.vocabulary_ = &vocabulary;
  decoder.is_byte_.resize(vocabulary.size());
  decoder.offsets_.push_back(0);
  RegexScratch scratch;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    std::string text(vocabulary.Content(id));
    for (const auto& step : options.token_steps) {
      if (const auto* replace = std::get_if<ReplaceStep>(&step)) {
        std::string replaced;
        MOED_ASSIGN_OR_RETURN(const bool any, ReplaceAll(*replace, text, scratch, &replaced));
        if (any) text = std::move(replaced);
      } else {
        const auto& strip = std::get<TokenStrip>(step);
        int count = 0;
        text.erase(0, LeadingRun(text, strip.content, strip.start, &count));
        text.resize(TrailingRun(text, strip.content, strip.stop));
      }
    }
    const int byte = options.bytes == Bytes::kByteFallback ? FallbackByte(text) : -1;
    if (byte >= 0) {
      decoder.is_byte_[id] = true;
      decoder.texts_.push_back(static_cast<char>(byte));
    } else if (options.bytes != Bytes::kByteLevel || !AppendByteLevelBytes(text, &decoder.texts_)) {
      decoder.texts_ += options.metaspace.empty() ? text : ReplaceLiteral(text, options.metaspace, " ");
    }
    if (decoder.texts_.size() > UINT32_MAX) return InvalidArgument("the tokens' texts are over 4 GiB long");
    decoder.offsets_.push_back(static_cast<uint32_t>(decoder.texts_.size()));
  }
  decoder.options_ = std::move(options);
  return decoder;
}

void Decoder::Push(int32_t id, DecoderState* state, std::string* out) const {
  if (!vocabulary_->Contains(id)) return;
  const bool first = std::exchange(state->first_token, false);
  const std::string_view bytes = TokenBytes(id);
  if (options_.bytes == Bytes::kByteLevel) return PushByteLevel(bytes, state, out);
  if (is_byte_[id]) return PushFallbackByte(bytes[0], state, out);
  FlushFallbackBytes(state, out);
  if (options_.join_with_spaces && !first) PushText(" ", state, out);
  if (first && options_.first_drops_metaspace) {
    PushText(ReplaceLiteral(vocabulary_->Content(id), options_.metaspace, ""), state, out);
    return;
  }
  const std::string_view& metaspace = options_.metaspace;
  const bool drops_prefix = options_.drop_dummy_prefix && !state->wrote_text &&
                            vocabulary_->Content(id).substr(0, metaspace.size()) == metaspace;
  // The second of two such tokens keeps its own: only one space was put there.
  if (drops_prefix) state->wrote_text = true;
  PushText(bytes.substr(drops_prefix ? 1 : 0), state, out);
}

void Decoder::Finish(DecoderState* state, std::string* out) const {
  if (options_.bytes == Bytes::kByteLevel) {
    if (!state->bytes.empty()) PushText(kReplacementUtf8, state, out);
    state->bytes.clear();
  } else {
    FlushFallbackBytes(state, out);
  }
  state->held_right.clear();
}

void Decoder::PushByteLevel(std::string_view bytes, DecoderState* state, std::string* out) const {
  std::string joined;
  if (!state->bytes.empty()) {
    joined = state->bytes.append(bytes);
    bytes = joined;
    state->bytes.clear();
  }
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind == Utf8Step::kIncomplete) {
      state->bytes = bytes;
      return;
    }
    PushText(step.kind == Utf8Step::kCharacter ? bytes.substr(0, step.length) : kReplacementUtf8, state, out);
    bytes.remove_prefix(step.length);
  }
}

void Decoder::PushFallbackByte(char byte, DecoderState* state, std::string* out) const {
  std::string& bytes = state->bytes;
  bytes.push_back(byte);
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind == Utf8Step::kIncomplete) return;
    const bool whole = step.kind == Utf8Step::kCharacter;
    PushText(whole ? std::string_view(bytes).substr(0, step.length) : kReplacementUtf8, state, out);
    bytes.erase(0, whole ? step.length : 1);
  }
}

void Decoder::FlushFallbackBytes(DecoderState* state, std::string* out) const {
  for (size_t i = 0; i < state->bytes.size(); ++i) PushText(kReplacementUtf8, state, out);
  state->bytes.clear();
}

void Decoder::PushText(std::string_view text, DecoderState* state, std::string* out) const {
  if (text.empty()) return;
  state->wrote_text = true;
  if (!options_.text_strip.has_value()) {
    out->append(text);
    return;
  }
  const TokenStrip& strip = *options_.text_strip;
  if (!state->left_done) {
    int count = 0;
    text.remove_prefix(LeadingRun(text, strip.content, strip.start - state->stripped_left, &count));
    state->stripped_left += count;
    state->left_done = !text.empty() || state->stripped_left == strip.start;
  }
  std::string joined = std::move(state->held_right);
  joined += text;
  const size_t end = TrailingRun(joined, strip.content, strip.stop);
  out->append(joined, 0, end);
  state->held_right = joined.substr(end);
}

}  // namespace moed
