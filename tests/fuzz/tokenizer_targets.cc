#include <absl/strings/escaping.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/logging.h"
#include "base/status.h"
#include "base/utf8.h"
#include "tests/fuzz/targets.h"
#include "tests/support/tiny_tokenizer.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/detokenizer.h"
#include "tokenizer/tokenizer.h"

namespace moed::fuzz {
namespace {

// What a template sees that comes without an input of its own.
constexpr std::string_view kConversation =
    R"({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi 世界"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1.5}}}],
        "add_generation_prompt": true})";

bool IsUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

void CheckRefusal(const absl::Status& status) {
  MOED_CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) || absl::IsResourceExhausted(status) ||
                 absl::IsDataLoss(status),
             "{}", status.ToString());
  MOED_CHECK(!Message(status).empty());
}

// Encodes a text in every way and decodes what came of it, at once and token by token.
void EncodeAndDecode(const Tokenizer& tokenizer, std::string_view text) {
  for (const EncodeOptions& options : {EncodeOptions{}, EncodeOptions{false, false}}) {
    const auto ids = tokenizer.Encode(text, options);
    if (!ids.ok()) {
      CheckRefusal(ids.status());
      continue;
    }
    const auto whole = tokenizer.Decode(*ids, {.skip_special_tokens = false});
    MOED_CHECK(whole.ok(), "{}", whole.status().ToString());
    MOED_CHECK(IsUtf8(*whole), "the decoded text is not UTF-8");
    IncrementalDetokenizer detokenizer(tokenizer, {.skip_special_tokens = false});
    for (int32_t id : *ids) MOED_CHECK(IsUtf8(detokenizer.Append(id)), "a piece of text is not UTF-8");
    MOED_CHECK(IsUtf8(detokenizer.Flush()), "the last piece of text is not UTF-8");
  }
}

}  // namespace

void TokenizerJson(std::string_view input) {
  const auto [json, text] = SplitInput(input);
  const auto tokenizer = Tokenizer::FromJson(json);
  if (!tokenizer.ok()) return CheckRefusal(tokenizer.status());
  EncodeAndDecode(**tokenizer, text.empty() ? json : text);
}

void TokenizerModel(std::string_view input) {
  const auto tokenizer = Tokenizer::FromSentencePiece(input);
  if (!tokenizer.ok()) return CheckRefusal(tokenizer.status());
  EncodeAndDecode(**tokenizer, " Héllo  ab▁<s>世界\n");
  EncodeAndDecode(**tokenizer, input.substr(0, 64));
}

void Tiktoken(std::string_view input) {
  static const std::string bytes = [] {
    std::string lines;
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      lines += absl::Base64Escape(absl::string_view(&c, 1)) + " " + std::to_string(byte) + "\n";
    }
    return lines;
  }();
  const auto [config, lines] = SplitInput(input);
  for (const std::string& file : {bytes + std::string(lines), std::string(lines)}) {
    const auto tokenizer = Tokenizer::FromTiktoken(file, config);
    if (tokenizer.ok()) {
      EncodeAndDecode(**tokenizer, " Héllo  ab<s>世界\n");
      EncodeAndDecode(**tokenizer, lines.substr(0, 64));
    } else {
      CheckRefusal(tokenizer.status());
    }
  }
}

void TokenizerText(std::string_view input) {
  static const std::shared_ptr<const Tokenizer> tokenizer = MakeTinyTokenizer({"ab", "abc", " the", "\xe4\xb8\x96"});
  const auto ids = tokenizer->Encode(input, {.add_special_tokens = false, .parse_special = false});
  MOED_CHECK(ids.ok() == IsUtf8(input));
  if (!ids.ok()) return CheckRefusal(ids.status());
  MOED_CHECK(*tokenizer->Decode(*ids) == input, "the text did not come back");
  EncodeAndDecode(*tokenizer, input);
}

void ChatTemplate(std::string_view input) {
  const auto [source, json] = SplitInput(input);
  ChatTemplateOptions options;
  options.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  // The server's limits by kind, small enough that many inputs are tried.
  options.limits.max_steps = 100'000;
  options.limits.max_value_bytes = size_t{16} << 20;
  options.limits.max_output_bytes = size_t{4} << 20;
  const auto parsed = moed::ChatTemplate::Parse(source, options);
  if (!parsed.ok()) return CheckRefusal(parsed.status());
  auto variables = nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!variables.is_object()) {
    variables = nlohmann::ordered_json::parse(kConversation);
  }
  const auto text = (*parsed)->Render(variables, absl::UnixEpoch());
  if (!text.ok()) return CheckRefusal(text.status());
  MOED_CHECK(text->size() <= options.limits.max_output_bytes);
  MOED_CHECK(IsUtf8(*text), "the rendered text is not UTF-8");
}

}  // namespace moed::fuzz
