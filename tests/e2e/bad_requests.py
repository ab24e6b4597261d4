"""Requests that a running server must refuse, and with what status and message."""

import dataclasses
import json
import math
import typing

from grpc import StatusCode

from server import CALL_TIMEOUT_S, chat_pb2, chat_request, generate_request, inference_pb2, sampling_pb2

MIB = 1 << 20
# What the demo model has.
VOCAB_SIZE = 4096
MAX_CONTEXT = 2048

# In place of the demo model's template, for rows with a template that misbehaves; template_kwargs choose how.
TEMPLATE = """
{%- macro again() %}{{ again() }}{% endmacro %}
{%- if mode == 'loop' %}
  {%- for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}
{%- elif mode == 'grow' %}
  {%- set it = namespace(text='grows') %}{% for a in range(1000) %}{% set it.text = it.text ~ it.text %}{% endfor %}
{%- elif mode == 'output' %}
  {%- for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}
{%- elif mode == 'recurse' %}{{ again() }}
{%- elif mode == 'type' %}{{ messages[0].content + 1 }}
{%- else %}
  {%- for message in messages %}
    {%- if message.role not in ('user', 'assistant') or (message.role == 'user') != (loop.index0 % 2 == 0) %}
      {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- message.content }}
  {%- endfor %}
{%- endif %}"""


@dataclasses.dataclass(frozen=True)
class RequestRow:
    name: str
    call: typing.Callable  # of the server; raises grpc.RpcError
    code: StatusCode
    message: str  # a part of it


def generate(text="Once upon a time", **sampling):
    return lambda server: server.stub.Generate(generate_request(text, **sampling), timeout=CALL_TIMEOUT_S)


def generate_ids(*ids):
    request = inference_pb2.GenerateRequest(token_ids=inference_pb2.TokenIds(ids=ids))
    return lambda server: server.stub.Generate(request, timeout=CALL_TIMEOUT_S)


def stream(**sampling):
    return lambda server: list(server.stub.GenerateStream(generate_request(**sampling), timeout=CALL_TIMEOUT_S))


def call(method, request, timeout=CALL_TIMEOUT_S):
    return lambda server: getattr(server.stub, method)(request, timeout=timeout)


def raw(method, message):
    """The bytes of `message` as they are; gRPC's stubs would not send such."""
    return lambda server: server.channel.unary_unary("/moed.v1.InferenceService/" + method)(message, timeout=CALL_TIMEOUT_S)


def field(number, content):
    """A length-delimited field of a message."""
    length = len(content)
    varint = b""
    while length >= 0x80:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + content


def chat(*messages, **fields):
    """A conversation of (role, content) with other fields of Conversation."""
    conversation = chat_pb2.Conversation(
        messages=[chat_pb2.ChatMessage(role=role, content=content) for role, content in messages], **fields)
    return call("Chat", inference_pb2.ChatRequest(conversation=conversation))


def chat_with_arguments(arguments):
    request = chat_request("What is the time?", "")
    request.conversation.messages[1].tool_calls.add(name="clock", arguments=arguments)
    return call("Chat", request)


def template(mode):
    return chat(("user", "Hi"), template_kwargs=json.dumps({"mode": mode}))


def overfill(server):
    """More at once than the queue takes: some are refused at once."""
    request = generate_request(max_tokens=200, ignore_eos=True)
    calls = [server.stub.Generate.future(request, timeout=CALL_TIMEOUT_S) for _ in range(64)]
    errors = [error for error in map(lambda one: one.exception(), calls) if error is not None]
    if errors:
        raise errors[0]


def out_of_range(name, values, message):
    return [RequestRow(f"{name} = {value}", generate(**{name: value}), StatusCode.INVALID_ARGUMENT,
                       message if isinstance(message, str) else message(value)) for value in values]


NAN, INFINITY = math.nan, math.inf
BAD = StatusCode.INVALID_ARGUMENT

PARAMETER_ROWS = [
    *out_of_range("temperature", [-1.0, NAN, INFINITY, 1e9], "; it must be in [0, 100]"),
    *out_of_range("top_p", [0.0, -0.5, 1.5, NAN], "; it must be in (0, 1]"),
    *out_of_range("min_p", [-0.1, 1.1, NAN], "; it must be in [0, 1]"),
    *out_of_range("top_k", [-1], "top_k is -1; it must be 0 (off) or more"),
    *out_of_range("repetition_penalty", [0.0, -1.0, NAN, INFINITY], "; it must be in (0, 100]"),
    *out_of_range("presence_penalty", [2.5, NAN, -INFINITY], "; it must be in [-2, 2]"),
    *out_of_range("frequency_penalty", [-3.0, NAN], "; it must be in [-2, 2]"),
    *out_of_range("max_tokens", [0, -5], "; it must be at least 1"),
    *out_of_range("min_tokens", [-1, 257], "; it must be in [0, max_tokens = 256]"),
    *out_of_range("logprobs", [-2, 1000], "; it must be in [-1, 32]"),
    RequestRow("temperature = nan, streamed", stream(temperature=NAN), BAD, "temperature is nan"),
    RequestRow("stop: 10,000 strings", generate(stop=[f"stop {i}" for i in range(10_000)]), BAD,
               "stop has 10000 strings; at most 64 are allowed"),
    RequestRow("stop: an empty string", generate(stop=["end", ""]), BAD, "stop[1] is empty"),
    RequestRow("stop: a string of 1 MiB", generate(stop=["x" * MIB]), BAD, "stop[0] has 1048576 bytes"),
    RequestRow("stop_token_ids: 10,000", generate(stop_token_ids=[5] * 10_000), BAD, "stop_token_ids has 10000 entries"),
    RequestRow("stop_token_ids: out of range", generate(stop_token_ids=[VOCAB_SIZE]), BAD, "stop_token_ids[0] is 4096"),
    RequestRow("logit_bias: 100,000 entries", generate(logit_bias={i: 1.0 for i in range(100_000)}), BAD,
               "logit_bias has 100000 entries; at most 1024 are allowed"),
    RequestRow("logit_bias: token -1", generate(logit_bias={-1: 1.0}), BAD, "logit_bias names token -1"),
    RequestRow("logit_bias: NaN", generate(logit_bias={5: NAN}), BAD, "logit_bias is nan; it must be in [-100, 100]"),
    RequestRow("logit_bias: 1e30", generate(logit_bias={5: 1e30}), BAD, "it must be in [-100, 100]"),
]

PROMPT_ROWS = [
    RequestRow("prompt: none", call("Generate", inference_pb2.GenerateRequest()), BAD, "set text or token_ids"),
    RequestRow("prompt: empty text", generate(""), BAD, "the prompt is empty"),
    RequestRow("prompt: empty list of ids", generate_ids(), BAD, "the prompt is empty"),
    RequestRow("prompt: token id -1", generate_ids(5, -1), BAD, "prompt token 1 is -1; token ids of this model are in [0, 4096)"),
    RequestRow("prompt: token id 4096", generate_ids(VOCAB_SIZE), BAD, "prompt token 0 is 4096"),
    RequestRow("prompt: token id 2^31 - 1", generate_ids(2**31 - 1), BAD, "prompt token 0 is 2147483647"),
    RequestRow("prompt: as long as the context", generate_ids(*[5] * MAX_CONTEXT), BAD,
               "the prompt has 2048 tokens; with room for one more it must fit in the context of 2048"),
    RequestRow("prompt: text too long", generate("word " * 20_000), BAD, "the prompt has "),
    RequestRow("prompt: 30 MiB", generate("x" * 30 * MIB), BAD, "the prompt has 31457280 bytes; no text of more than"),
    RequestRow("prompt: 100 MiB", generate("x" * 100 * MIB), StatusCode.RESOURCE_EXHAUSTED,
               "Received message larger than max"),
    RequestRow("prompt: 7 million token ids", generate_ids(*[5] * 7_000_000), BAD, "the prompt has 7000000 tokens"),
    RequestRow("prompt: invalid UTF-8", raw("Generate", field(2, b"Once \xff\xfe")), BAD, "text that is not UTF-8"),
    RequestRow("prompt: half a character", raw("Generate", field(2, "明".encode()[:2])), BAD, "text that is not UTF-8"),
    RequestRow("stop: invalid UTF-8", raw("Generate", field(2, b"Once") + field(4, field(12, b"\xc3"))), BAD,
               "text that is not UTF-8"),
    RequestRow("message: random bytes", raw("Generate", bytes(range(255, 0, -1))), BAD, "malformed"),
    RequestRow("message: cut off", raw("Generate", b"\x12\x7fOnce"), BAD, "malformed"),
    RequestRow("message: groups nested 100,000 deep", raw("Generate", b"\x7b" * 100_000), BAD, "malformed"),
    # In characters of three bytes.
    RequestRow("unknown model: a name of 12 kB", call("Generate", inference_pb2.GenerateRequest(model="世" * 4000, text="Once")),
               StatusCode.NOT_FOUND, "… (12000 bytes); this server has: demo"),
    RequestRow("unknown model", call("Generate", inference_pb2.GenerateRequest(model="gpt-7", text="Once")),
               StatusCode.NOT_FOUND, 'there is no model "gpt-7"; this server has: demo'),
    RequestRow("Tokenize: nothing", call("Tokenize", inference_pb2.TokenizeRequest()), BAD, "set text or conversation"),
    RequestRow("Tokenize: invalid UTF-8", raw("Tokenize", field(2, b"\xed\xa0\x80")), BAD, "text that is not UTF-8"),
    RequestRow("Detokenize: token id 4096", call("Detokenize", inference_pb2.DetokenizeRequest(token_ids=[5, VOCAB_SIZE])),
               BAD, "ids[1] is 4096; it must be in [0, 4096)"),
    RequestRow("deadline in the past", call("Generate", generate_request(), timeout=-1), StatusCode.DEADLINE_EXCEEDED,
               "Deadline Exceeded"),
    RequestRow("deadline too soon", call("Generate", generate_request(max_tokens=2000, ignore_eos=True), timeout=0.05),
               StatusCode.DEADLINE_EXCEEDED, ""),
    RequestRow("method that does not exist", raw("Divine", b""), StatusCode.UNIMPLEMENTED, ""),
]

CHAT_ROWS = [
    RequestRow("chat: no messages", chat(), BAD, "the conversation has no messages"),
    RequestRow("chat: no conversation", raw("Chat", b""), BAD, "the conversation has no messages"),
    RequestRow("chat: message without a role", chat(("user", "Hi"), ("", "Hello")), BAD, "messages[1].role is empty"),
    RequestRow("chat: template_kwargs cut off", chat(("user", "Hi"), template_kwargs='{"a": '), BAD,
               "template_kwargs is not JSON"),
    RequestRow("chat: template_kwargs is a list", chat(("user", "Hi"), template_kwargs="[]"), BAD,
               "template_kwargs is a JSON array; it must be an object"),
    RequestRow("chat: template_kwargs nested 100,000 deep", chat(("user", "Hi"), template_kwargs='{"a":' * 100_000), BAD,
               "template_kwargs is nested more than 64 deep"),
    RequestRow("chat: tool is no JSON", chat(("user", "Hi"), tools=['{"type": "function"}', "get_weather"]), BAD,
               "tools[1] is not JSON"),
    RequestRow("chat: arguments are no object", chat_with_arguments('"noon"'), BAD,
               "messages[1].tool_calls[0].arguments is a JSON string"),
    RequestRow("chat: conversation too long", chat(("user", "word " * 20_000)), BAD, "the prompt has "),
    RequestRow("chat: invalid UTF-8", raw("Chat", field(2, field(1, field(1, b"user") + field(2, b"\xff")))), BAD,
               "text that is not UTF-8"),
]

# To a server whose model has TEMPLATE.
TEMPLATE_ROWS = [
    RequestRow("template: loops without end", template("loop"), StatusCode.INVALID_ARGUMENT, "max_steps"),
    RequestRow("template: text that doubles without end", template("grow"), StatusCode.INVALID_ARGUMENT, "max_"),
    RequestRow("template: output without end", template("output"), StatusCode.INVALID_ARGUMENT, "max_"),
    RequestRow("template: macro that calls itself", template("recurse"), StatusCode.INVALID_ARGUMENT, "max_call_depth"),
    RequestRow("template: text + number", template("type"), BAD, "chat template"),
    RequestRow("template: refuses an unknown role", chat(("wizard", "Hi")), BAD, "Conversation roles must alternate"),
    RequestRow("template: refuses two users in a row", chat(("user", "Hi"), ("user", "Hi!")), BAD,
               "Conversation roles must alternate"),
]

# To a server that takes one request at a time and lets one wait.
FULL_QUEUE_ROW = RequestRow("64 requests for a queue of one", overfill, StatusCode.RESOURCE_EXHAUSTED,
                            "the queue is full: 1 requests wait")

# To a server whose model has a template that cannot be parsed.
NO_TEMPLATE_ROW = RequestRow("chat: model without a template", chat(("user", "Hi")), StatusCode.UNIMPLEMENTED,
                             'model "demo" has no chat template')
