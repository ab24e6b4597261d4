#include "tokenizer/chat_template.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tokenizer/jinja/template.h"
#include "tokenizer/jinja/unicode.h"

namespace moed {
namespace {

using jinja::Budget;
using jinja::DictBuilder;
using jinja::Value;
using nlohmann::ordered_json;

constexpr char kDefault[] = "default";

// ---- Input ----

absl::Status CheckTokens(const ChatTemplateOptions& options) {
  for (const auto& [name, token] : options.special_tokens) {
    if (!jinja::IsValidUtf8(token)) return InvalidArgument("{} is not valid UTF-8", name);
  }
  return absl::OkStatus();
}

// Throws jinja::TemplateError; `depth` counts down.
template <class Json>
Value ToValue(const Json& json, Budget& budget, int depth) {
  if (depth == 0)
    jinja::FailLimit("the input is nested more than {} deep (max_value_depth)", budget.limits().max_value_depth);
  switch (json.type()) {
    case nlohmann::json::value_t::boolean:
      return Value::Bool(json.template get<bool>());
    case nlohmann::json::value_t::number_integer:
      return Value::Int(json.template get<int64_t>());
    case nlohmann::json::value_t::number_unsigned:
      return Value::Int(json.template get<uint64_t>());
    case nlohmann::json::value_t::number_float:
      return Value::Float(json.template get<double>());
    case nlohmann::json::value_t::string: {
      const auto& text = json.template get_ref<const std::string&>();
      if (!jinja::IsValidUtf8(text)) jinja::Fail("the input holds text that is not valid UTF-8");
      return jinja::MakeString(text, budget);
    }
    case nlohmann::json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(ToValue(item, budget, depth - 1));
      return jinja::MakeList(std::move(items), budget);
    }
    case nlohmann::json::value_t::object: {
      DictBuilder dict(budget);
      for (const auto& [key, value] : json.items()) {
        if (!jinja::IsValidUtf8(key)) jinja::Fail("the input holds a key that is not valid UTF-8");
        dict.Set(std::string_view(key), ToValue(value, budget, depth - 1));
      }
      return dict.Finish();
    }
    default:
      return Value();
  }
}

// The message with its reasoning under both names that templates read, in the order in which transformers puts them.
Value WithReasoningAliases(const Value& message, Budget& budget) {
  if (!message.Is(jinja::Kind::kDict)) return message;
  const Value* reasoning = nullptr;
  for (std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = message.dict().Find(name);
    if (reasoning == nullptr && found != nullptr && !found->IsNone()) reasoning = found;
  }
  if (reasoning == nullptr) return message;
  DictBuilder aliased(budget);
  aliased.Set("thinking", *reasoning);
  for (const auto& [key, value] : message.dict().entries) aliased.Set(key, value);
  aliased.Set("reasoning_content", *reasoning);
  return aliased.Finish();
}

Value AliasMessages(const Value& messages, Budget& budget) {
  if (!messages.Is(jinja::Kind::kList)) return messages;
  std::vector<Value> aliased;
  for (const Value& message : messages.items()) aliased.push_back(WithReasoningAliases(message, budget));
  return jinja::MakeList(std::move(aliased), budget);
}

// What the template sees. Throws jinja::TemplateError.
template <class Json>
Value MakeVariables(const Json& input, const ChatTemplateOptions& options, Budget& budget) {
  DictBuilder variables(budget);
  for (const auto& [name, token] : options.special_tokens) variables.Set(name, Value::String(token));
  variables.Set("tools", Value());
  variables.Set("documents", Value());
  variables.Set("add_generation_prompt", Value::Bool(false));
  for (const auto& [key, json] : input.items()) {
    Value value = ToValue(json, budget, budget.limits().max_value_depth);
    if (key == "messages") value = AliasMessages(value, budget);
    variables.Set(std::string_view(key), std::move(value));
  }
  return variables.Finish();
}

// ---- Files ----

std::optional<std::string> ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<std::optional<ordered_json>> ReadJson(const std::filesystem::path& path) {
  const std::optional<std::string> text = ReadFile(path);
  if (!text.has_value()) return std::optional<ordered_json>();
  ordered_json json = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("{}: not a JSON object", path.string());
  return std::optional<ordered_json>(std::move(json));
}

// A special token is written as text, or as an object with its text under "content".
std::optional<std::string> TokenText(const ordered_json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (!token.is_object()) return std::nullopt;
  const auto content = token.find("content");
  if (content == token.end() || !content->is_string()) return std::nullopt;
  return content->get<std::string>();
}

void AddSpecialTokens(const ordered_json& config, ChatTemplateOptions* options) {
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto entry = config.find(name);
    if (entry == config.end()) continue;
    if (std::optional<std::string> text = TokenText(*entry)) options->special_tokens.emplace(name, *std::move(text));
  }
}

using NamedSources = std::vector<std::pair<std::string, std::string>>;

// The entry "chat_template" of a configuration file: one template, or a list of {"name", "template"}.
absl::StatusOr<NamedSources> TemplatesOf(const ordered_json& config, const std::string& file) {
  NamedSources sources;
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return sources;
  if (entry->is_string()) {
    sources.emplace_back(kDefault, entry->get<std::string>());
    return sources;
  }
  if (!entry->is_array()) return InvalidArgument("{}: chat_template is neither text nor a list", file);
  for (const ordered_json& named : *entry) {
    const bool complete = named.is_object() && named.contains("name") && named["name"].is_string() &&
                          named.contains("template") && named["template"].is_string();
    if (!complete) return InvalidArgument("{}: chat_template holds an entry without name and template", file);
    sources.emplace_back(named["name"].get<std::string>(), named["template"].get<std::string>());
  }
  return sources;
}

// The templates of files that hold nothing else.
NamedSources TemplateFiles(const std::filesystem::path& dir) {
  NamedSources sources;
  if (std::optional<std::string> text = ReadFile(dir / "chat_template.jinja")) {
    sources.emplace_back(kDefault, *std::move(text));
  }
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "additional_chat_templates", ignored)) {
    if (entry.path().extension() != ".jinja") continue;
    if (std::optional<std::string> text = ReadFile(entry.path())) {
      sources.emplace_back(entry.path().stem().string(), *std::move(text));
    }
  }
  return sources;
}

}  // namespace

ChatTemplate::ChatTemplate(ChatTemplateOptions options) : options_(std::move(options)) {}
ChatTemplate::~ChatTemplate() = default;

absl::Status ChatTemplate::Add(const std::string& name, std::string_view source) {
  MOED_ASSIGN_OR_RETURN(templates_[name], jinja::Template::Parse(source, options_.limits));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source,
                                                                  ChatTemplateOptions options) {
  MOED_RETURN_IF_ERROR(CheckTokens(options));
  std::unique_ptr<ChatTemplate> result(new ChatTemplate(std::move(options)));
  MOED_RETURN_IF_ERROR(result->Add(kDefault, source));
  return result;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir,
                                                                 ChatTemplateOptions options) {
  const std::filesystem::path dir(model_dir);
  MOED_ASSIGN_OR_RETURN(const std::optional<ordered_json> config, ReadJson(dir / "tokenizer_config.json"));
  if (config.has_value()) AddSpecialTokens(*config, &options);
  MOED_RETURN_IF_ERROR(CheckTokens(options));

  NamedSources sources = TemplateFiles(dir);
  if (sources.empty()) {
    MOED_ASSIGN_OR_RETURN(const std::optional<ordered_json> file, ReadJson(dir / "chat_template.json"));
    if (file.has_value()) {
      MOED_ASSIGN_OR_RETURN(sources, TemplatesOf(*file, "chat_template.json"));
    }
  }
  if (sources.empty() && config.has_value()) {
    MOED_ASSIGN_OR_RETURN(sources, TemplatesOf(*config, "tokenizer_config.json"));
  }
  if (sources.empty()) {
    return NotFound("{}: no chat template, neither in tokenizer_config.json nor as chat_template.jinja", model_dir);
  }
  std::unique_ptr<ChatTemplate> result(new ChatTemplate(std::move(options)));
  for (const auto& [name, source] : sources) {
    const absl::Status added = result->Add(name, source);
    if (!added.ok()) return Annotate(added, fmt::format("{}: template '{}'", model_dir, name));
  }
  return result;
}

absl::StatusOr<const jinja::Template*> ChatTemplate::Choose(bool with_tools) const {
  if (with_tools) {
    const auto tool_use = templates_.find("tool_use");
    if (tool_use != templates_.end()) return tool_use->second.get();
  }
  const auto found = templates_.find(kDefault);
  if (found != templates_.end()) return found->second.get();
  if (templates_.size() == 1) return templates_.begin()->second.get();
  return FailedPrecondition("the model has several chat templates, and none of them is named '{}'", kDefault);
}

template <class Json>
absl::StatusOr<std::string> ChatTemplate::RenderJson(const Json& input, absl::Time now) const {
  if (!input.is_object())
    return InvalidArgument("the conversation is a JSON {}; it must be an object", input.type_name());
  const auto messages = input.find("messages");
  if (messages == input.end() || !messages->is_array()) {
    return InvalidArgument("messages is missing or no list; it must be a list of objects with role and content");
  }
  for (const Json& message : *messages) {
    if (!message.is_object())
      return InvalidArgument("messages holds a JSON {}; each must be an object", message.type_name());
  }
  const auto tools = input.find("tools");
  MOED_ASSIGN_OR_RETURN(const jinja::Template* chosen, Choose(tools != input.end() && !tools->is_null()));
  Value variables;
  try {
    Budget budget(options_.limits);
    variables = MakeVariables(input, options_, budget);
  } catch (const jinja::TemplateError& error) {
    return absl::Status(error.code(), fmt::format("chat template: {}", error.message()));
  }
  return chosen->Render(variables, now);
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& input, absl::Time now) const {
  return RenderJson(input, now);
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::json& input, absl::Time now) const {
  return RenderJson(input, now);
}

}  // namespace moed
