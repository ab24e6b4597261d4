#!/usr/bin/env python3
"""Makes tests/golden/chat_template.jsonl, template_set.jsonl and jinja.jsonl: what Python's jinja2 renders.

The environment is the one in which transformers renders chat templates: it is taken from
transformers.utils.chat_template_utils itself, as are the names under which templates see a message's reasoning. Made with transformers 5.24.0, jinja2 3.1.6, Python 3.11.

    make_template_golden.py [TEMPLATES_DIR]      (a folder of *.jinja with a folder contexts/ of *.json)

chat_template.jsonl: a line {"context": NAME, "input": {...}} for each conversation, then a line
{"template": FILE, "context": NAME, "text" or "text_fnv1a" or "error": ...} for each pair. The templates stay where they
are: the test reads them from the same folder. Long outputs are kept as their size and hash to stay small; one of each template
is kept whole, so that a difference can be read.
template_set.jsonl: the same for the templates in tests/golden/templates, over the conversations of chat_template.jsonl
and some more, which come first.
jinja.jsonl: a line {"template": SOURCE, "text" or "error": ...} for each construct of the language.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import transformers
from transformers.utils import chat_template_utils

# What strftime_now prints, so that the result does not change from day to day.
NOW = datetime.datetime(2025, 6, 15, 12, 34, 56, 789012)


class FixedDateTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = FixedDateTime


def render(source, context):
    """{"text": …}, or {"error": message} with "raised" where the template raised it itself and "syntax" for a mistake
    in the source."""
    try:
        if "messages" in context:
            context = {**context, "messages": chat_template_utils._alias_reasoning_fields(context["messages"])}
        return {"text": chat_template_utils._compile_jinja_template(source).render(**context)}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": str(error), "syntax": True}
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"error": str(error), "raised": True} if raised else {"error": str(error)}
    except Exception as error:  # whatever Python raises within a template
        return {"error": str(error)}


def fnv1a(text):
    """The 64-bit FNV-1a hash: short to write in any language, and enough to tell two renderings apart."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def with_defaults(context):
    """The variables that apply_chat_template always passes."""
    return {"tools": None, "documents": None, "add_generation_prompt": False, **context}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.\nNow or later.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. “Zürich” or 北京"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615, "default": 3},
                "exact": {"type": ["boolean", "null"], "default": False},
                "scale": {"type": "number", "default": 1.5e-07},
                "tags": {"type": "array", "items": {"type": "string"}, "nullable": True},
                "where": {"oneOf": [{"type": "string"}, {"type": "object", "properties": {"lat": {"type": "number"}}}]},
            },
            "required": ["place"],
        },
        "return": {"type": "object"},
    },
}
PLAIN_TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}


def call(name, arguments, identifier):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_turns(arguments):
    return [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Zürich?"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", arguments, "call00001")]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"temp": 21.5, "sky": "☀"}'},
        {"role": "assistant", "content": "It is 21.5 °C."},
        {"role": "user", "content": "And the time?"},
    ]


TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "  Who are you?\n"},
    {"role": "assistant", "content": "A model.\n\n"},
    {"role": "user", "content": "Thanks <b>&amp;</b> 'bye' \"now\""},
]
CONTEXTS = {
    "one_user": {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True, **TOKENS},
    "no_generation_prompt": {"messages": TURNS[:2], **TOKENS},
    "turns": {"messages": TURNS, "add_generation_prompt": True, **TOKENS},
    "system_turns": {
        "messages": [{"role": "system", "content": "Be brief.\nBe kind."}] + TURNS,
        "add_generation_prompt": True,
        **TOKENS,
    },
    "no_tokens": {"messages": TURNS[:1], "add_generation_prompt": True},
    "late_system": {
        "messages": [TURNS[0], {"role": "system", "content": "late"}, TURNS[2]],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "developer": {
        "messages": [{"role": "developer", "content": "Be exact."}, TURNS[0]],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "unicode": {
        "messages": [
            {"role": "system", "content": "你是一个助手。"},
            {"role": "user", "content": "日本語 🙂👩‍👩‍👧 naïve e\u0301 \u200b\u2028 ÄÖÜß\t."},
            {"role": "assistant", "content": "\u3000好的\u00a0"},
            {"role": "user", "content": "Ω≈ç√∫˜µ≤≥÷ 👍🏽"},
        ],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tools_no_calls": {
        "messages": TURNS,
        "tools": [WEATHER, PLAIN_TOOL],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tool_calls_object": {
        "messages": tool_turns({"place": "Zürich", "days": 2, "exact": True, "scale": 0.1, "tags": ["a", "ü"]}),
        "tools": [WEATHER, PLAIN_TOOL],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tool_calls_text": {
        "messages": tool_turns('{"place": "Zürich"}'),
        "tools": [WEATHER],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tool_result_last": {
        "messages": tool_turns({"place": "Oslo"})[:4],
        "tools": [WEATHER],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "two_calls": {
        "messages": [
            {"role": "user", "content": "Both cities"},
            {
                "role": "assistant",
                "content": "Let me look.",
                "tool_calls": [call("get_weather", {"place": "A"}, "callaaaa1"), call("now", {}, "callbbbb2")],
            },
            {"role": "tool", "tool_call_id": "callaaaa1", "content": "1"},
            {"role": "tool", "tool_call_id": "callbbbb2", "content": "2"},
        ],
        "tools": [WEATHER, PLAIN_TOOL],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "reasoning_content": {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "reasoning_content": "\nTwo and two.\n", "content": "4"},
            {"role": "user", "content": "3+3?"},
            {"role": "assistant", "reasoning_content": "Three and three.", "content": "6"},
        ],
        **TOKENS,
    },
    "thinking_field": {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "thinking": "Two and two.", "content": "4"},
            {"role": "user", "content": "3+3?"},
        ],
        "add_generation_prompt": True,
        "reasoning_effort": "high",
        **TOKENS,
    },
    "reasoning_field": {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "reasoning": "Two and two.", "content": "4"},
            {"role": "user", "content": "3+3?"},
        ],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "think_tags": {
        "messages": [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\n4"},
            {"role": "user", "content": "3+3?"},
        ],
        "add_generation_prompt": True,
        "enable_thinking": True,
        "thinking": True,
        **TOKENS,
    },
    "thinking_off": {
        "messages": TURNS[:3],
        "add_generation_prompt": True,
        "enable_thinking": False,
        "thinking": False,
        "reasoning_effort": "low",
        **TOKENS,
    },
    "reasoning_tools": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "reasoning_content": "I need the tool.",
                "thinking": "I need the tool.",
                "content": "",
                "tool_calls": [call("get_weather", {"place": "Rome"}, "call12345")],
            },
            {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "sunny"},
        ],
        "tools": [WEATHER],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Parts."}]},
            {"role": "user", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]},
        ],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "image_part": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What is it?"}],
            }
        ],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "documents": {
        "messages": TURNS[:1],
        "documents": [{"title": "Ä", "text": "First \"text\"."}, {"title": "B", "text": "Second", "doc_id": 7}],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tools_documents": {
        "messages": tool_turns({"place": "Zürich"}),
        "tools": [WEATHER],
        "documents": [{"title": "A", "text": "First"}],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "null_content": {
        "messages": [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": None, "tool_calls": [call("now", {}, "call12345")]},
            {"role": "tool", "tool_call_id": "call12345", "name": "now", "content": "12:00"},
        ],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "missing_content": {"messages": [{"role": "user"}], "add_generation_prompt": True, **TOKENS},
    "missing_role": {"messages": [{"content": "who?"}], "add_generation_prompt": True, **TOKENS},
    "unknown_role": {"messages": [{"role": "critic", "content": "no"}], "add_generation_prompt": True, **TOKENS},
    "two_users": {"messages": [TURNS[0], TURNS[2]], "add_generation_prompt": True, **TOKENS},
    "assistant_first": {"messages": [TURNS[1], TURNS[0]], "add_generation_prompt": True, **TOKENS},
    "assistant_last": {"messages": TURNS[:4], "add_generation_prompt": True, **TOKENS},
    "tool_without_call": {
        "messages": [TURNS[0], {"role": "tool", "content": "x", "tool_call_id": "call12345"}],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "system_only": {"messages": [{"role": "system", "content": "S"}], "add_generation_prompt": True, **TOKENS},
    "empty": {"messages": [], "add_generation_prompt": True, **TOKENS},
    "empty_content": {
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "number_content": {"messages": [{"role": "user", "content": 42}], "add_generation_prompt": True, **TOKENS},
    "builtin_tools": {
        "messages": TURNS[:1],
        "builtin_tools": ["browser", "python"],
        "model_identity": "You are moed.",
        "add_generation_prompt": True,
        **TOKENS,
    },
    "tool_result_parts": {
        "messages": tool_turns({"place": "Zürich"})[:3]
        + [
            {
                "role": "tool",
                "tool_call_id": "call00001",
                "name": "get_weather",
                "content": [{"type": "text", "text": "21 °C"}, {"output": "sunny"}],
            }
        ],
        "tools": [WEATHER],
        "add_generation_prompt": True,
        **TOKENS,
    },
}
# For template_set.jsonl only: parts that are no text, and shapes that templates ask about.
MORE_CONTEXTS = {
    "media": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "See. "}, "Hear."]},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:,", "detail": "high"}},
                    {"type": "image", "image": "a.png", "tiles": 3},
                    {"type": "text", "text": "What differs?"},
                    {"type": "video", "video": "b.mp4", "frames": [0, 3, 7], "fps": 3},
                    {"type": "video", "video": "c.mp4"},
                    {"type": "audio", "audio": {"format": "mp3"}},
                    {"type": "audio", "audio": {}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Colours."}]},
            {"role": "user", "content": [{"type": "image", "image": "d.png"}]},
        ],
        "add_vision_id": True,
        "add_generation_prompt": True,
        **TOKENS,
    },
    "unknown_part": {"messages": [{"role": "user", "content": [{"type": "smell", "smell": "ü"}]}], **TOKENS},
    "bare_tool": {
        "messages": TURNS[:1],
        "tools": [{"name": "f", "description": " d\n", "parameters": {"type": "object", "properties": {}}}],
        "custom_tools": [PLAIN_TOOL],
        "tools_in_user_message": False,
        "date_string": "1 Jan 2025",
        **TOKENS,
    },
    "deep_arguments": {
        "messages": [
            TURNS[0],
            {
                "role": "assistant",
                "content": "  ",
                "tool_calls": [call("f", {"a": {"b": [1, {"c": None}]}, "s": "<é>", "n": -0.0, "t": True}, "abcdefghi")],
            },
            {"role": "tool", "content": {"content": [1, 2], "ok": True}, "tool_call_id": "abcdefghi"},
            {"role": "ipython", "content": ["x", 1]},
        ],
        "builtin_tools": ["code_interpreter", "f"],
        "add_generation_prompt": True,
        **TOKENS,
    },
    "strict": {"messages": TURNS[:2], "strict": True, "enable_thinking": True, **TOKENS},
    "many_turns": {
        "messages": [
            {"role": ("user", "assistant")[i % 2], "content": f"{'word ' * i}{i}<think>{i}</think>\n{chr(0x4E00 + i)}"}
            for i in range(9)
        ],
        "reasoning_effort": "high",
        "add_generation_prompt": True,
        **TOKENS,
    },
}
# Outputs longer than this are kept as their hash, but for one of each template.
WHOLE_BYTES = 300


def write_chat_templates(folder, out):
    contexts = {name: with_defaults(context) for name, context in CONTEXTS.items()}
    lines = [{"context": name, "input": context} for name, context in contexts.items()]
    for path in sorted((folder / "contexts").glob("*.json")):
        contexts[path.stem] = with_defaults(json.loads(path.read_text()))
    write(out / "chat_template.jsonl", lines + render_all(folder, contexts, WHOLE_BYTES))


def write_template_set(out):
    more = {name: with_defaults(context) for name, context in MORE_CONTEXTS.items()}
    lines = [{"context": name, "input": context} for name, context in more.items()]
    contexts = {name: with_defaults(context) for name, context in CONTEXTS.items()} | more
    write(out / "template_set.jsonl", lines + render_all(out / "templates", contexts, 60))


def render_all(folder, contexts, whole_bytes):
    lines = []
    for path in sorted(folder.glob("*.jinja")):
        kept_whole = False
        for name, context in contexts.items():
            result = render(path.read_text(), context)
            text = result.get("text")
            if text is not None and len(text.encode()) > whole_bytes:
                if kept_whole or "tool" not in name:
                    result = {"text_bytes": len(text.encode()), "text_fnv1a": fnv1a(text)}
                else:
                    kept_whole = True
            lines.append({"template": path.name, "context": name, **result})
    return lines


def write_constructs(out):
    here = pathlib.Path(__file__).parent
    cases = (here / "jinja_cases.txt").read_text().split("\n----\n")
    context = json.loads((here / "jinja_context.json").read_text())
    lines = []
    for case in cases:
        source = case.rstrip("\n") if case is cases[-1] else case
        lines.append({"template": source, **render(source, with_defaults(context))})
    write(out / "jinja.jsonl", lines)


def write(path, lines):
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    path.write_text(text)
    errors = sum("error" in line for line in lines)
    print(f"{path.name}: {len(lines)} lines, {errors} errors, {len(text.encode())} bytes")


def main():
    print(f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}, Python {sys.version.split()[0]}")
    out = pathlib.Path(__file__).parent
    if len(sys.argv) > 1:
        write_chat_templates(pathlib.Path(sys.argv[1]), out)
    write_template_set(out)
    write_constructs(out)


if __name__ == "__main__":
    main()
