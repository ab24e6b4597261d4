#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"
#include "tests/tokenizer/chat_template_golden.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/jinja/text.h"
#include "tokenizer/jinja/unicode.h"

namespace moed {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

absl::StatusOr<std::string> Render(std::string_view source, const ordered_json& input,
                                   ChatTemplateOptions options = {}) {
  auto parsed = ChatTemplate::Parse(source, std::move(options));
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(input, GoldenNow());
}

ordered_json NoMessages() { return {{"messages", ordered_json::array()}}; }

absl::StatusOr<std::string> Render(std::string_view source) { return Render(source, NoMessages()); }

// ---- Every construct of the language, as Python renders it ----

TEST(Jinja, ConstructsRenderAsInPython) {
  const ordered_json context = ordered_json::parse(ReadWhole("tests/golden/jinja_context.json"));
  for (const ordered_json& line : ReadJsonLines("tests/golden/jinja.jsonl")) {
    const std::string source = line["template"];
    SCOPED_TRACE(source);
    CompareWithGolden(line, Render(source, context));
  }
}

// ---- What is left out says so ----

TEST(Jinja, OtherTemplatesAreUnimplemented) {
  for (const char* source : {"{% include 'a' %}", "{% extends 'a' %}", "{% import 'a' as b %}",
                             "{% from 'a' import b %}", "{% autoescape true %}{% endautoescape %}",
                             "{{ [1] | random }}", "{{ 'a'.encode() }}", "{{ '\\N{BULLET}' }}", "{{ (-8) ** 0.5 }}"}) {
    EXPECT_EQ(Render(source).status().code(), absl::StatusCode::kUnimplemented) << source;
  }
}

TEST(Jinja, IntegersEndAtOneHundredAndTwentyEightBits) {
  EXPECT_EQ(Render("{{ 2 ** 126 }} {{ -2 ** 64 }} {{ 18446744073709551615 * 2 }}").value(),
            "85070591730234615865843651857942052864 18446744073709551616 36893488147419103230");
  for (const char* source : {"{{ 2 ** 127 }}", "{{ 2 ** 126 + 2 ** 126 }}", "{{ 2 ** 100 * 2 ** 100 }}",
                             "{{ 999999999999999999999999999999999999999999 }}", "{{ ('9' * 50) | int }}"}) {
    EXPECT_EQ(Render(source).status().code(), absl::StatusCode::kInvalidArgument) << source;
  }
}

// What Python prints for them; the goldens are made with values that end.
TEST(Jinja, ThingsThatHoldThemselvesPrintAndGoAway) {
  EXPECT_EQ(Render("{% set ns = namespace(b=1) %}{% set ns.a = [ns] %}{{ ns }}").value(),
            "<Namespace {'b': 1, 'a': [<Namespace {...}>]}>");
  EXPECT_EQ(Render("{{ namespace(a=namespace(b=1)) }}").value(), "<Namespace {'a': <Namespace {'b': 1}>}>");
  // A leak checker sees whether these are freed.
  EXPECT_EQ(Render("{% for x in [1, 2] %}{{ loop.changed(loop) }}{% endfor %}").value(), "TrueFalse");
  EXPECT_EQ(Render("{% set ns = namespace() %}{% for x in [1] %}{% set ns.l = loop %}{% endfor %}"
                   "{{ ns.l.changed([ns.l]) }}")
                .value(),
            "True");
}

TEST(Jinja, ExtremeNumbersAreNoOverflow) {
  EXPECT_EQ(Render("{{ range(8589934592, 0, -4294967296)[::4294967296] | list }}").value(), "[8589934592]");
  EXPECT_EQ(Render("{{ range(10, 0, -8)[::2305843009213693951] | list }}").value(), "[10]");
  for (const char* source : {"{{ (-170141183460469231731687303715884105727 - 1).bit_length() }}",
                             "{{ '%d' % (-170141183460469231731687303715884105727 - 1) }}",
                             "{{ 170141183460469231731687303715884105727 | round(-29) }}"}) {
    EXPECT_EQ(Render(source).status().code(), absl::StatusCode::kInvalidArgument) << source;
  }
}

// ---- Limits ----

struct LimitCase {
  const char* source;
  const char* limit;
};

// Each is stopped by the limit that its row names, within about a second.
constexpr LimitCase kEndless[] = {
    // Time.
    {"{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}", "max_steps"},
    {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "max_steps"},
    {"{% macro m(n) %}{% for i in range(10) %}{{ m(n) if n > 100 else m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}",
     "max_call_depth"},
    {"{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
     "{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
     "max_steps"},
    {"{% set x = ('a' * 10000000) %}{% for i in range(100000) %}{{ x.count('b') }}{% endfor %}", "max_steps"},
    {"{% set x = 'a' * 4000000 %}{{ x.count('a' * 2000000 ~ 'b') }}", "max_steps"},
    {"{% set x = 'a' * 4000000 %}{{ ('a' * 2000000 ~ 'b') in x }}", "max_steps"},
    {"{% set x = 'a' * 4000000 %}{{ x | replace('a' * 2000000 ~ 'b', '') }}", "max_steps"},
    {"{% set x = 'a' * 4000000 %}{{ x.split('a' * 2000000 ~ 'b') }}", "max_steps"},
    {"{% set x = 'a' * 4000000 %}{{ x.strip('b' * 2000000 ~ 'a') }}", "max_steps"},
    {"{% set x = 'a' * 10000000 %}{% for i in range(100000) %}{{ x | wordcount }}{% endfor %}", "max_steps"},
    {"{% set x = 'a' * 10000000 %}{% for i in range(100000) %}{{ x | int }}{% endfor %}", "max_steps"},
    {"{% set x = 'a' * 10000000 %}{% for i in range(100000) %}{{ x.startswith('b') }}{% endfor %}", "max_steps"},
    {"{{ [1] | map(attribute='a.' * 5000000) | list }}", "max_"},
    {"{{ range(100000) | map(attribute='a.' * 1000000, default=1) | list }}", "max_steps"},
    // Calls.
    {"{{ 'a' | map(*(['map'] * 30000)) | list }}", "max_"},
    {"{{ 'a' | map(*(['map'] * 2000)) | list }}", "max_call_depth"},
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "max_call_depth"},
    {"{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", "max_call_depth"},
    {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "max_call_depth"},
    {"{% macro m() %}{% call m() %}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}{% endcall %}",
     "max_call_depth"},
    // Memory.
    {"{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
     "max_value_bytes"},
    {"{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
     "max_value_bytes"},
    {"{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
     "max_value_bytes"},
    {"{{ 'x' * 1000000000000 }}", "max_value_bytes"},
    {"{{ [0] * 1000000000000 }}", "max_value_bytes"},
    {"{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "max_value_bytes"},
    {"{{ ('a' * 100000) | replace('', 'b' * 100000) }}", "max_value_bytes"},
    {"{{ range(100000) | join('b' * 100000) }}", "max_value_bytes"},
    {"{{ 'a'.center(1000000000000) }}", "max_value_bytes"},
    {"{{ 'a' | center(1000000000000) }}", "max_value_bytes"},
    {"{{ 'a'.zfill(1000000000000) }}", "max_value_bytes"},
    {"{{ 'a\\tb'.expandtabs(1000000000000) }}", "max_value_bytes"},
    {"{{ 'a' | indent(1000000000000) }}", "max_value_bytes"},
    {"{{ ('a\\n' * 100000) | indent(100000) }}", "max_value_bytes"},
    {"{{ [[[[1]]]] | tojson(indent=1000000000000) }}", "max_value_bytes"},
    {"{{ range(100000) | list | tojson(separators=('a' * 1000000, 'b')) }}", "max_value_bytes"},
    {"{{ dict.fromkeys(range(1000)) | tojson(separators=('a', 'b' * 1000000)) }}", "max_value_bytes"},
    {"{{ ('\\n' * 20000000).splitlines() }}", "max_value_bytes"},
    {"{{ (',' * 20000000).split(',') }}", "max_value_bytes"},
    {"{{ ('a ' * 20000000).split() }}", "max_value_bytes"},
    {"{{ [1] | batch(1000000000000, 0) | list }}", "max_value_bytes"},
    {"{{ [1] | slice(1000000000000) | list }}", "max_value_bytes"},
    {"{{ ('%(a)s' * 100000) % {'a': 'b' * 100000} }}", "max_value_bytes"},
    {"{{ ('{0}' * 100000).format('b' * 100000) }}", "max_value_bytes"},
    {"{{ ', '.join(['b' * 100000] * 100000) }}", "max_value_bytes"},
    {"{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson "
     "}}",
     "max_steps"},
    // Output.
    {"{% set x = 'a' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}", "max_output_bytes"},
    // Nesting of values.
    {"{% set ns = namespace(a=1) %}{% for i in range(100000) %}{% set ns.a = namespace(a=[ns.a]) %}{% endfor %}"
     "{{ ns }}",
     "max_value_depth"},
    {"{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
     "max_value_depth"},
    {"{% set ns = namespace(l={}) %}{% for i in range(100000) %}{% set ns.l = {'a': ns.l} %}{% endfor %}",
     "max_value_depth"},
    {"{% set ns = namespace(l=1) %}{% for i in range(100000) %}{% set ns.l = cycler(ns.l) %}{% endfor %}",
     "max_value_depth"},
    {"{% set ns = namespace(l=1) %}{% for i in range(100000) %}{% set ns.l = [ns.l].index %}{% endfor %}",
     "max_value_depth"},
    // Widths.
    {"{{ '%1000000000d' % 1 }}", "width"},
    {"{{ '{:1000000000}'.format(1) }}", "width"},
    {"{{ range(100001) }}", "MAX_RANGE"},
};

TEST(JinjaLimits, EndlessTemplatesEnd) {
  for (const LimitCase& row : kEndless) {
    SCOPED_TRACE(row.source);
    const auto start = std::chrono::steady_clock::now();
    const auto text = Render(row.source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted) << text.status();
    EXPECT_THAT(std::string(Message(text.status())), HasSubstr(row.limit));
    // No assertion: the machine may be busy. Shown, so that a slow one is seen.
    if (took.count() > 1) std::cout << took.count() << " s: " << row.source << "\n";
  }
}

TEST(JinjaLimits, LongChainsOfNamespacesEndQuietly) {
  EXPECT_EQ(Render("{% set ns = namespace(prev=none) %}{% for i in range(100000) %}"
                   "{% set ns.prev = namespace(prev=ns.prev) %}{% endfor %}done")
                .value(),
            "done");
  EXPECT_EQ(Render("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}").value(),
            "<Namespace {'self': <Namespace {...}>}>");
  EXPECT_EQ(
      Render(
          "{% set ns = namespace() %}{% for i in range(50000) %}{% set c = ns.f %}{% macro m() %}{{ c }}{% endmacro %}"
          "{% set ns.f = m %}{% endfor %}done")
          .value(),
      "done");
  EXPECT_EQ(Render("{% set ns = namespace() %}{% for i in range(100000) %}{% set c = ns.l %}{% for x in [1] %}"
                   "{% set ns.l = loop %}{% endfor %}{% endfor %}done")
                .value(),
            "done");
  EXPECT_EQ(
      Render("{% set ns = namespace() %}{% for i in range(100000) %}{% set c = ns.l %}{% for x in [1] recursive %}"
             "{% set ns.l = loop %}{% endfor %}{% endfor %}done")
          .value(),
      "done");
}

std::string Repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

TEST(JinjaLimits, DeepSourceIsRefused) {
  const int deep = 30000;
  const std::string sources[] = {
      "{{ " + Repeated("(", deep) + "1" + Repeated(")", deep) + " }}",
      "{{ " + Repeated("[", deep) + Repeated("]", deep) + " }}",
      "{{ " + Repeated("{1:", deep) + "1" + Repeated("}", deep) + " }}",
      "{{ " + Repeated("-", deep) + "1 }}",
      "{{ " + Repeated("not ", deep) + "1 }}",
      "{{ 1" + Repeated(" + 1", deep) + " }}",
      "{{ 1" + Repeated(" ** 1", deep) + " }}",
      "{{ 1" + Repeated(" and 1", deep) + " }}",
      "{{ a" + Repeated(".a", deep) + " }}",
      "{{ a" + Repeated("[0]", deep) + " }}",
      "{{ a" + Repeated("()", deep) + " }}",
      "{{ a" + Repeated("|trim", deep) + " }}",
      "{{ a" + Repeated(" if a else a", deep) + " }}",
      Repeated("{% if a %}", deep) + Repeated("{% endif %}", deep),
      Repeated("{% for a in a %}", deep) + Repeated("{% endfor %}", deep),
      "{% set " + Repeated("(", deep) + "a" + Repeated(")", deep) + " = 1 %}",
  };
  for (const std::string& source : sources) {
    const absl::Status status = Render(source).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << source.substr(0, 40) << " " << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr("max_nesting"));
  }
}

TEST(JinjaLimits, NestingUpToTheLimitWorks) {
  const int deep = 60;
  EXPECT_EQ(Render("{{ " + Repeated("(", deep) + "1" + Repeated(")", deep) + " }}").value(), "1");
  EXPECT_EQ(Render("{{ 1" + Repeated(" + 1", deep) + " }}").value(), "61");
  EXPECT_EQ(Render(Repeated("{% if true %}", deep) + "x" + Repeated("{% endif %}", deep)).value(), "x");
  EXPECT_EQ(
      Render("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ m(150) }}").value(),
      "end");
}

TEST(JinjaLimits, OptionsAreHonoured) {
  ChatTemplateOptions options;
  options.limits.max_source_bytes = 10;
  EXPECT_THAT(std::string(Message(Render("more than ten bytes", NoMessages(), options).status())),
              HasSubstr("max_source_bytes"));
  options = {};
  options.limits.max_output_bytes = 5;
  EXPECT_EQ(Render("12345", NoMessages(), options).value(), "12345");
  EXPECT_THAT(std::string(Message(Render("123456", NoMessages(), options).status())), HasSubstr("max_output_bytes"));
  options = {};
  options.limits.max_steps = 100;
  EXPECT_THAT(std::string(Message(Render("{% for i in range(200) %}{% endfor %}", NoMessages(), options).status())),
              HasSubstr("max_steps"));
}

// A conversation of a thousand long turns stays far below every limit.
TEST(JinjaLimits, LongConversationsRender) {
  ordered_json input = {{"messages", ordered_json::array()}};
  for (int i = 0; i < 1000; ++i) {
    input["messages"].push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(2000, 'x')}});
  }
  const auto text = Render(
      "{% for m in messages %}{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}"
      "{{ '<|' ~ m.role ~ '|>' + (m.content | trim) }}{% endif %}{% endfor %}",
      input);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_GT(text->size(), 2'000'000u);
}

// ---- Text ----

TEST(JinjaText, FloatsPrintAsInPython) {
  const std::pair<double, const char*> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1.0, "1.0"},
      {0.1, "0.1"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1e-4, "0.0001"},
      {1e-5, "1e-05"},
      {1.5e-7, "1.5e-07"},
      {1e100, "1e+100"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {123456789.125, "123456789.125"},
  };
  for (const auto& [value, text] : cases) EXPECT_EQ(jinja::FloatRepr(value), text);
}

TEST(JinjaText, Utf8IsCheckedAndCounted) {
  EXPECT_TRUE(jinja::IsValidUtf8("aé日🙂"));
  for (const char* bad : {"\xff", "\xc3", "\xe6\x97", "\xed\xa0\x80", "\xc0\xaf", "\xf5\x80\x80\x80"}) {
    EXPECT_FALSE(jinja::IsValidUtf8(bad));
  }
  EXPECT_EQ(jinja::CountCodePoints("aé日🙂"), 4u);
  EXPECT_EQ(jinja::ByteOffset("aé日🙂", 3), 6u);
  EXPECT_EQ(jinja::ToUtf8(jinja::ToCodePoints("aé日🙂")), "aé日🙂");
}

}  // namespace
}  // namespace moed
