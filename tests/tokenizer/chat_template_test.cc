#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "tests/tokenizer/chat_template_golden.h"

namespace moed {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::unique_ptr<ChatTemplate> MustParse(std::string_view source, ChatTemplateOptions options = {}) {
  auto result = ChatTemplate::Parse(source, std::move(options));
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

ordered_json Conversation(const char* text) { return ordered_json::parse(text); }

ordered_json OneUser() { return Conversation(R"({"messages": [{"role": "user", "content": "Hi"}]})"); }

std::string MustRender(const ChatTemplate& chat_template, const ordered_json& input) {
  auto text = chat_template.Render(input, GoldenNow());
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

// ---- Real templates over every conversation, as Python renders them ----

// Renders the templates of `folder` as the goldens tell; returns how many were compared.
int CompareAll(const std::filesystem::path& folder, const std::vector<ordered_json>& goldens) {
  std::map<std::string, ordered_json> contexts;
  std::map<std::string, std::unique_ptr<ChatTemplate>> templates;
  int compared = 0;
  for (const ordered_json& line : goldens) {
    const std::string context = line["context"];
    if (line.contains("input")) {
      contexts[context] = line["input"];
      continue;
    }
    const std::string name = line["template"];
    SCOPED_TRACE(testing::Message() << name << " with " << context);
    if (!contexts.contains(context)) {
      contexts[context] = ordered_json::parse(ReadWhole(folder / "contexts" / (context + ".json")));
    }
    if (!templates.contains(name)) templates[name] = MustParse(ReadWhole(folder / name));
    CompareWithGolden(line, templates[name]->Render(contexts[context], GoldenNow()));
    ++compared;
  }
  return compared;
}

TEST(ChatTemplateGolden, RealTemplatesRenderAsPythonDoes) {
  const char* data = std::getenv("MOED_TEST_DATA");
  if (data == nullptr) GTEST_SKIP() << "MOED_TEST_DATA is not set";
  EXPECT_EQ(CompareAll(std::filesystem::path(data) / "templates", ReadJsonLines("tests/golden/chat_template.jsonl")),
            12 * 40);
}

// Templates of the project's own, which use what the real ones do not.
TEST(ChatTemplateGolden, TheSecondSetRendersAsPythonDoes) {
  std::vector<ordered_json> goldens;
  for (ordered_json& line : ReadJsonLines("tests/golden/chat_template.jsonl")) {
    if (line.contains("input")) goldens.push_back(std::move(line));
  }
  for (ordered_json& line : ReadJsonLines("tests/golden/template_set.jsonl")) goldens.push_back(std::move(line));
  EXPECT_EQ(CompareAll("tests/golden/templates", goldens), 12 * 43);
}

// ---- Input ----

TEST(ChatTemplate, GivesTheVariablesOfTransformers) {
  const auto shown = MustParse("{{ tools }} {{ documents }} {{ add_generation_prompt }} {{ bos_token is defined }}");
  EXPECT_EQ(MustRender(*shown, OneUser()), "None None False False");
  ordered_json input = OneUser();
  input["tools"] = ordered_json::array({1});
  input["add_generation_prompt"] = true;
  input["bos_token"] = "<s>";
  EXPECT_EQ(MustRender(*shown, input), "[1] None True True");
}

TEST(ChatTemplate, SpecialTokensGiveWayToTheInput) {
  ChatTemplateOptions options;
  options.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  const auto shown = MustParse("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", options);
  EXPECT_EQ(MustRender(*shown, OneUser()), "<s>Hi</s>");
  ordered_json input = OneUser();
  input["eos_token"] = "!";
  EXPECT_EQ(MustRender(*shown, input), "<s>Hi!");
}

TEST(ChatTemplate, KeepsTheOrderOfKeys) {
  const auto shown = MustParse("{{ messages[0] | tojson }}");
  EXPECT_EQ(MustRender(*shown, Conversation(R"({"messages": [{"z": 1, "a": 2, "m": {"y": 1, "b": null}}]})")),
            R"({"z": 1, "a": 2, "m": {"y": 1, "b": null}})");
}

TEST(ChatTemplate, PrintsNumbersBeyondSignedSixtyFourBits) {
  const auto shown = MustParse("{{ messages[0].n }} {{ messages[0].n | tojson }}");
  EXPECT_EQ(MustRender(*shown, Conversation(R"({"messages": [{"n": 18446744073709551615}]})")),
            "18446744073709551615 18446744073709551615");
}

TEST(ChatTemplate, TakesUnorderedJsonToo) {
  const auto shown = MustParse("{{ messages[0].role }}");
  const nlohmann::json input = nlohmann::json::parse(R"({"messages": [{"role": "user"}]})");
  const auto text = shown->Render(input, GoldenNow());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "user");
}

TEST(ChatTemplate, GivesReasoningUnderTheNamesThatTemplatesRead) {
  const auto shown = MustParse("{{ messages[0] }}");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"role": "assistant", "reasoning": "why"})",
       "{'thinking': 'why', 'role': 'assistant', 'reasoning': 'why', 'reasoning_content': 'why'}"},
      {R"({"role": "assistant", "reasoning_content": "why"})",
       "{'thinking': 'why', 'role': 'assistant', 'reasoning_content': 'why'}"},
      // The first of the names counts; what stands under `thinking` stays.
      {R"({"thinking": "b", "reasoning_content": null, "reasoning": "c"})",
       "{'thinking': 'b', 'reasoning_content': 'b', 'reasoning': 'c'}"},
      {R"({"thinking": "b", "reasoning_content": ""})", "{'thinking': 'b', 'reasoning_content': ''}"},
      {R"({"role": "user", "content": "Hi"})", "{'role': 'user', 'content': 'Hi'}"},
  };
  for (const auto& [message, expected] : cases) {
    const ordered_json input = Conversation(fmt::format(R"({{"messages": [{}]}})", message).c_str());
    EXPECT_EQ(MustRender(*shown, input), expected);
  }
}

TEST(ChatTemplate, RefusesInputThatIsNoConversation) {
  const auto shown = MustParse("{{ messages }}");
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "must be an object"},
      {"{}", "messages is missing"},
      {R"({"messages": "Hi"})", "messages is missing or no list"},
      {R"({"messages": ["Hi"]})", "each must be an object"},
  };
  for (const auto& [input, message] : cases) {
    const auto text = shown->Render(Conversation(input), GoldenNow());
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << input;
    EXPECT_THAT(std::string(Message(text.status())), HasSubstr(message));
  }
}

TEST(ChatTemplate, RefusesTextThatIsNotUtf8) {
  const auto shown = MustParse("{{ messages[0].content }}");
  ordered_json input = OneUser();
  input["messages"][0]["content"] = "\xff\xfe";
  EXPECT_EQ(shown->Render(input, GoldenNow()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChatTemplate::Parse("\xc3").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, RefusesInputThatIsNestedTooDeep) {
  ordered_json deep = 1;
  for (int i = 0; i < 2000; ++i) deep = ordered_json::array({deep});
  ordered_json input = OneUser();
  input["tools"] = deep;
  const auto text = MustParse("{{ tools }}")->Render(input, GoldenNow());
  EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Message(text.status())), HasSubstr("max_value_depth"));
}

TEST(ChatTemplate, RaisedMessageStandsAsItIs) {
  const auto text = MustParse("\n\n{{ raise_exception('Roles must alternate!') }}")->Render(OneUser(), GoldenNow());
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(text.status()), "Roles must alternate!");
}

TEST(ChatTemplate, ErrorsTellTheLine) {
  const auto text = MustParse("a\nb\n{{ messages[0].content + 1 }}\n")->Render(OneUser(), GoldenNow());
  EXPECT_EQ(Message(text.status()), "chat template, line 3: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(Message(ChatTemplate::Parse("a\n{% if %}").status()),
            "chat template, line 2: Expected an expression, got 'end of statement block'");
}

TEST(ChatTemplate, OneTemplateServesManyThreads) {
  const auto shared = MustParse(
      "{% macro line(m) %}{{ m.role }}: {{ m.content | trim }}{% endmacro %}"
      "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }} {{ line(m) }};{% endfor "
      "%}");
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&shared, t] {
      for (int i = 0; i < 50; ++i) {
        ordered_json input = OneUser();
        input["messages"][0]["content"] = " t" + std::to_string(t) + " ";
        EXPECT_EQ(shared->Render(input, GoldenNow()).value(), "1 user: t" + std::to_string(t) + ";");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- Folders ----

class ChatTemplateLoadTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) /
           (std::string("chat_template_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((dir_ / name).parent_path());
    std::ofstream(dir_ / name) << text;
  }
  std::string LoadAndRender(const ordered_json& input = OneUser()) {
    const auto loaded = ChatTemplate::Load(dir_.string());
    if (!loaded.ok()) return loaded.status().ToString();
    return MustRender(**loaded, input);
  }

  std::filesystem::path dir_;
};

TEST_F(ChatTemplateLoadTest, TextInTokenizerConfig) {
  Write("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
            "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}"})");
  EXPECT_EQ(LoadAndRender(), "<s></s>False");
}

TEST_F(ChatTemplateLoadTest, NamedTemplatesInTokenizerConfig) {
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(LoadAndRender(), "plain");
  ordered_json input = OneUser();
  input["tools"] = ordered_json::array();
  EXPECT_EQ(LoadAndRender(input), "tools");
}

TEST_F(ChatTemplateLoadTest, FilesComeBeforeTokenizerConfig) {
  Write("tokenizer_config.json", R"({"chat_template": "config", "bos_token": "<s>"})");
  EXPECT_EQ(LoadAndRender(), "config");
  Write("chat_template.json", R"({"chat_template": "json {{ bos_token }}"})");
  EXPECT_EQ(LoadAndRender(), "json <s>");
  Write("chat_template.jinja", "jinja {{ bos_token }}\n");
  Write("additional_chat_templates/tool_use.jinja", "with tools");
  EXPECT_EQ(LoadAndRender(), "jinja <s>");
  ordered_json input = OneUser();
  input["tools"] = ordered_json::array();
  EXPECT_EQ(LoadAndRender(input), "with tools");
}

TEST_F(ChatTemplateLoadTest, ErrorsNameTheFile) {
  EXPECT_EQ(ChatTemplate::Load(dir_.string()).status().code(), absl::StatusCode::kNotFound);
  Write("tokenizer_config.json", "{}");
  EXPECT_EQ(ChatTemplate::Load(dir_.string()).status().code(), absl::StatusCode::kNotFound);
  Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(LoadAndRender(), HasSubstr("tokenizer_config.json: chat_template is neither text nor a list"));
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THAT(LoadAndRender(), HasSubstr("without name and template"));
  Write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_THAT(LoadAndRender(), HasSubstr("line 1"));
  Write("tokenizer_config.json", "{\"chat_template\"");
  EXPECT_THAT(LoadAndRender(), HasSubstr("tokenizer_config.json: not a JSON object"));
}

}  // namespace
}  // namespace moed
