// moed tokenize: text to token ids and back, a JSON object a line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/model_text.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

using Json = nlohmann::ordered_json;

struct TokenizeFlags {
  std::string model_dir;
  bool decode = false;
  bool chat = false;
  bool add_special_tokens = false;
  bool skip_special_tokens = false;
};

class LineConverter {
 public:
  explicit LineConverter(const TokenizeFlags& flags) : flags_(flags) {}

  absl::Status Load() {
    MOED_ASSIGN_OR_RETURN(const std::string path, ResolveModelPath(flags_.model_dir));
    if (flags_.chat) {
      MOED_ASSIGN_OR_RETURN(template_, LoadChatTemplate(path));
    } else {
      MOED_ASSIGN_OR_RETURN(tokenizer_, LoadTokenizer(path));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Json> Convert(const std::string& line) const {
    const Json input = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!input.is_object()) return InvalidArgument("the line is not a JSON object");
    if (flags_.chat) return Render(input);
    return flags_.decode ? Decode(input) : Encode(input);
  }

 private:
  absl::StatusOr<Json> Encode(const Json& input) const {
    const auto text = input.find("text");
    if (text == input.end() || !text->is_string()) return InvalidArgument("the object needs \"text\", a string");
    EncodeOptions options;
    options.add_special_tokens = flags_.add_special_tokens;
    MOED_ASSIGN_OR_RETURN(const auto ids, tokenizer_->Encode(text->get_ref<const std::string&>(), options));
    return Json{{"ids", ids}};
  }

  absl::StatusOr<Json> Decode(const Json& input) const {
    const auto ids = input.find("ids");
    if (ids == input.end() || !ids->is_array()) return InvalidArgument("the object needs \"ids\", a list of integers");
    std::vector<int32_t> values;
    for (const Json& id : *ids) {
      if (!id.is_number_integer()) return InvalidArgument("ids holds {}; it must hold integers only", id.dump());
      values.push_back(static_cast<int32_t>(std::clamp<int64_t>(id.get<int64_t>(), -1, INT32_MAX)));
    }
    DecodeOptions options;
    options.skip_special_tokens = flags_.skip_special_tokens;
    MOED_ASSIGN_OR_RETURN(std::string text, tokenizer_->Decode(values, options));
    return Json{{"text", std::move(text)}};
  }

  absl::StatusOr<Json> Render(const Json& input) const {
    MOED_ASSIGN_OR_RETURN(std::string text, template_->Render(input));
    return Json{{"text", std::move(text)}};
  }

  const TokenizeFlags& flags_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;
};

absl::Status Tokenize(const TokenizeFlags& flags) {
  if (flags.decode && flags.chat) return InvalidArgument("--decode and --chat exclude each other");
  LineConverter converter(flags);
  MOED_RETURN_IF_ERROR(converter.Load());
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    if (line.empty()) continue;
    const absl::StatusOr<Json> output = converter.Convert(line);
    if (!output.ok()) return Annotate(output.status(), fmt::format("line {}", number));
    fmt::print("{}\n", output->dump());
    std::fflush(stdout);  // whoever feeds the lines may wait for the answer
  }
  return absl::OkStatus();
}

}  // namespace

Command AddTokenizeCommand(CLI::App* app) {
  CLI::App* command = app->add_subcommand("tokenize", "Text to token ids and back, a JSON object a line");
  command->footer(
      "Example:\n"
      "  echo '{\"text\": \"Once upon a time\"}' | moed tokenize --model models/demo\n"
      "  echo '{\"ids\": [1, 2, 3]}' | moed tokenize --model models/demo --decode\n"
      "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}' |\n"
      "    moed tokenize --model models/demo --chat");
  auto flags = std::make_shared<TokenizeFlags>();
  command->add_option("--model", flags->model_dir, "Folder or GGUF file of the model, or its name on the Hub")
      ->required()
      ->type_name("DIR");
  command->add_flag("--decode", flags->decode, "{\"ids\": [...]} to {\"text\": ...}");
  command->add_flag(
      "--chat", flags->chat,
      "A conversation {\"messages\": [...], \"tools\": [...], \"add_generation_prompt\": true} to the text "
      "that the model's template makes of it");
  command->add_flag("--add-special-tokens", flags->add_special_tokens,
                    "Put what the model expects around a text, like <s>");
  command->add_flag("--skip-special-tokens", flags->skip_special_tokens, "With --decode: leave them out of the text");
  return {command, [flags] { return Tokenize(*flags); }};
}

}  // namespace moed
